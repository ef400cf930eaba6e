"""The allow-list as a seccomp filter: classic BPF over `struct seccomp_data` (seccomp(2), linux/filter.h)."""

from __future__ import annotations

import errno
import struct

from tasks.evaluation.code_execution.system_calls import AllZero, Machine, OneOf, Refused, Rule, WithoutFlags

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]. Both machines are little-endian.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000


def filter_program(machine: Machine) -> bytes:
    """`struct sock_filter[]`: what is allowed on this machine; the rest fails with EPERM.

    A call by another convention (32-bit calls on a 64-bit kernel have other numbers) ends the process; x32's
    numbers are none of ours.
    """
    instructions = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_IF_EQUAL, machine.audit_architecture, when_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
    ]
    for number, rule in sorted(machine.rules().items()):
        answer = _answer(rule)
        instructions += [_instruction(_JUMP_IF_EQUAL, number, when_false=len(answer)), *answer]
    instructions.append(_instruction(_RETURN, _ERROR | errno.EPERM))
    return b"".join(instructions)


def _answer(rule: Rule) -> list[bytes]:
    """What follows when the number has matched; always ends in a return, so nothing falls through."""
    allow = _instruction(_RETURN, _ALLOW)
    refuse = _instruction(_RETURN, _ERROR | errno.EPERM)
    match rule:
        case WithoutFlags(argument, flags):
            return [_load_low(argument), _instruction(_JUMP_IF_ANY_BIT, flags, when_false=1), refuse, allow]
        case OneOf(argument, values):
            cases = [[_instruction(_JUMP_IF_EQUAL, value, when_false=1), allow] for value in values]
            return [_load_low(argument), *(line for case in cases for line in case), refuse]
        case AllZero(arguments):
            tests = [
                [load(argument), _instruction(_JUMP_IF_EQUAL, 0, when_true=1), refuse]
                for argument in arguments
                for load in (_load_low, _load_high)
            ]
            return [*(line for test in tests for line in test), allow]
        case Refused(error):
            return [_instruction(_RETURN, _ERROR | error)]
        case _:
            return [allow]


def _load_low(argument: int) -> bytes:
    return _instruction(_LOAD, _ARGUMENTS + 8 * argument)


def _load_high(argument: int) -> bytes:
    return _instruction(_LOAD, _ARGUMENTS + 8 * argument + 4)


def _instruction(code: int, operand: int, *, when_true: int = 0, when_false: int = 0) -> bytes:
    """`struct sock_filter`; jumps count the instructions to skip."""
    return struct.pack("<HBBI", code, when_true, when_false, operand)
