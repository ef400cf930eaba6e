"""Formulas as text: what the report prints is what was computed.

A formula is an arithmetic expression in Python's notation over named quantities and functions. Nothing else of Python
is understood: no attributes, no subscripts, no comprehensions.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigurationError
from tasks.audit.spans import Number, Span, as_span, hull

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True)
class Evaluated:
    """A formula's value, and the names it used, in the order they stand there."""

    value: Span
    names: tuple[str, ...]


@dataclass
class Formulas:
    """Evaluates formulas over `quantities` (looked up when asked for) and `functions`."""

    quantity: Callable[[str], Number]
    functions: Mapping[str, Callable[..., Number]]
    _names: list[str] = field(default_factory=list)

    def evaluate(self, formula: str) -> Evaluated:
        """The value of `formula`; a list of several, divided by commas, is the range that holds them all.

        Raises ConfigurationError naming the formula and what is wrong with it.
        """
        outer, self._names = self._names, []
        try:
            value = as_span(self._number(ast.parse(formula, mode="eval").body))
            return Evaluated(value, tuple(dict.fromkeys(self._names)))
        except (SyntaxError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
            problem = f"unknown name {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(
                f"formula '{formula}': {problem}.", "correct it in tasks/audit/data, or define the name."
            ) from error
        finally:
            self._names = outer

    def _number(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name(id=name):
                self._names.append(name)
                return self.quantity(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._number(left), self._number(right))
            case ast.Tuple(elts=parts):
                return hull(*(self._number(part) for part in parts))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
                self._names.append(name)
                return self.functions[name](
                    *(self._number(argument) for argument in arguments),
                    **{str(keyword.arg): self._number(keyword.value) for keyword in keywords},
                )
        raise ValueError(f"'{ast.unparse(node)}' is not arithmetic")
