"""The founding documents' figures, recomputed: claims as data, verdicts by code, `docs/seed-audit.md` from both.

Public surface: `run_audit` -> `Audit` (its `Row`s with `Verdict`s), `named`, `as_markdown`, `as_data`,
`load_documents`, `load_quantities`; the parts a check is made of: `Claim`, `Document`, `Quantity`, `Figure`,
`parse_figure`, `Span`, `judge`, `Kind`.
"""

from tasks.audit.checking import run_audit
from tasks.audit.claims import Claim, Document, Quantity, load_documents, load_quantities
from tasks.audit.figures import Figure, parse_figure
from tasks.audit.report import as_data, as_markdown
from tasks.audit.rows import Audit, Row, named
from tasks.audit.spans import Span
from tasks.audit.verdicts import Kind, Verdict, judge

__all__ = [
    "Audit",
    "Claim",
    "Document",
    "Figure",
    "Kind",
    "Quantity",
    "Row",
    "Span",
    "Verdict",
    "as_data",
    "as_markdown",
    "judge",
    "load_documents",
    "load_quantities",
    "named",
    "parse_figure",
    "run_audit",
]
