"""What an audit says: findings with a code and a severity, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..schemas.errors import AuditFailed

Severity = Literal["error", "warning", "notice"]

# Every code that an audit can give, its severity, and what it means.
CODES: dict[str, tuple[Severity, str]] = {
    "store_unreadable": ("error", "The file, its list of groups or its log cannot be read."),
    "crash": ("error", "The HDF5 library crashed while a key was read."),
    "commit_edited": ("error", "A line of the log does not give its digest."),
    "commit_unreadable": ("error", "A line of the log cannot be parsed."),
    "commit_missing": ("error", "Numbers are missing from the chain of commits."),
    "commit_reordered": ("error", "A commit stands at another place than its number says, or twice."),
    "commit_replaced": ("error", "A commit is not the one that the next commit was made after."),
    "event_impossible": ("error", "A commit does what cannot be done at that point."),
    "log_changed": ("error", "The group of the log was changed besides its text."),
    "root_not_found": ("error", "The noted root digest is of no commit in the verified chain."),
    "data_changed": ("error", "Values, or the attributes of a variable, differ from the recorded digest."),
    "attributes_changed": ("error", "Attributes of the dataset differ from the log."),
    "dimensions_changed": ("error", "Lengths of dimensions differ from the log."),
    "variable_added": ("error", "A variable was added by hand; the rest is as recorded."),
    "variable_missing": ("error", "A variable that was recorded or that the kind needs is not there."),
    "data_missing": ("error", "The log has a key, but nothing lies there."),
    "unreadable": ("error", "A group cannot be read."),
    "unknown_group": ("error", "Data lie in the store that no commit made: written by hand."),
    "restart_changed": ("error", "A restart state differs from its digest."),
    "stash_changed": ("error", "Kept results of a running map differ from their digest."),
    "run_edited": ("error", "The record of a run does not give its id."),
    "output_differs": ("error", "Data differ from what the run that made them recorded at its end."),
    "run_missing": ("warning", "A key names a run that has no record."),
    "input_missing": ("warning", "What a run read is not in the store, nor in its log."),
    "unconverged": ("warning", "A training set refers to labels that did not converge."),
    "leakage": ("warning", "The same frame stands in two splits of a training set."),
    "source_missing": ("warning", "A training set refers to frames that are not there."),
    "stale": ("notice", "An input has a newer version, changed after it was read, or is stale itself."),
    "received_changed": ("notice", "What a run received from a call has grown or changed since."),
    "running": ("notice", "A run is recorded as running: at work now, or killed and resumable."),
    "leftover": ("notice", "A group of h5ml's own that nothing refers to any more; gc removes it."),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an audit found.

    Attributes
    ----------
    code : str
        One of ``CODES``.
    message : str
        What is wrong; names the key, run or commit.
    key, run, commit : optional
        What is concerned.
    expected, found : str, optional
        What the record says and what lies there.
    hint : str, optional
        The next step.
    severity : {"error", "warning", "notice"}
        ``error``: the store is not what was committed. ``warning``: it is, but something in it should not be relied
        on. ``notice``: an ordinary state of work in progress; counts as a failure only in a strict audit.
    """

    code: str
    message: str
    key: str | None = None
    run: str | None = None
    commit: int | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return CODES[self.code][0]

    def record(self) -> dict[str, Any]:
        """As plain JSON types, without what is not set."""
        facts = {name: value for name, value in asdict(self).items() if value is not None}
        return {"severity": self.severity, **facts}

    def __str__(self) -> str:
        lines = [f"{self.severity} [{self.code}] {self.message}"]
        rows = (
            ("key", self.key),
            ("run", self.run),
            ("commit", self.commit),
            ("expected", self.expected),
            ("found", self.found),
            ("next", self.hint),
        )
        lines += [f"  {name + ':':<10}{value}" for name, value in rows if value is not None]
        return "\n".join(lines)


@dataclass(slots=True)
class AuditReport:
    """The outcome of an audit.

    Attributes
    ----------
    location : str
        The store.
    findings : list of Finding
        Errors first, then warnings, then notices.
    root : str
        The root digest now: write it down to audit against it later.
    commits, keys, runs : int
        How many were checked (keys: every version of every key).
    bytes : int
        Bytes of data whose digest was recomputed.
    purged : int
        Entries whose payload was purged, so that only their records could be checked.
    root_age : int or None
        How many commits were made after the noted root digest; None where none was given or found.
    wall_s, cpu_s : float
        Time used.
    """

    location: str
    findings: list[Finding] = field(default_factory=list)
    root: str = ""
    commits: int = 0
    keys: int = 0
    runs: int = 0
    bytes: int = 0
    purged: int = 0
    root_age: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there are no errors and no warnings."""
        return not self.failures()

    def failures(self, *, strict: bool = False) -> list[Finding]:
        """The findings that make an audit fail: errors and warnings, and with ``strict`` notices too."""
        return [f for f in self.findings if strict or f.severity != "notice"]

    def exit_code(self, *, strict: bool = False) -> int:
        """0, or 1 where the audit failed."""
        return 1 if self.failures(strict=strict) else 0

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings in, each once."""
        known = set(self.findings)
        for finding in findings:
            if finding not in known:
                known.add(finding)
                self.findings.append(finding)

    def sort(self) -> None:
        """Bring errors first."""
        order = {"error": 0, "warning": 1, "notice": 2}
        self.findings.sort(key=lambda f: order[f.severity])

    def count(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(f.severity == severity for f in self.findings)

    def record(self) -> dict[str, Any]:
        """As plain JSON types."""
        facts = {name: value for name, value in asdict(self).items() if name != "findings"}
        return {**facts, "ok": self.ok, "findings": [f.record() for f in self.findings]}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> AuditReport:
        """Rebuild a report from ``record()``."""
        facts = {name: value for name, value in record.items() if name not in {"ok", "findings"}}
        findings = [Finding(**{k: v for k, v in f.items() if k != "severity"}) for f in record["findings"]]
        return cls(**facts, findings=findings)

    def summary(self) -> str:
        """One line."""
        counts = [(self.count("error"), "error"), (self.count("warning"), "warning"), (self.count("notice"), "notice")]
        told = ", ".join(f"{n} {name}{'s' * (n != 1)}" for n, name in counts if n) or "no findings"
        read = ", ".join(
            f"{n} {name}{'s' * (n != 1)}"
            for n, name in ((self.commits, "commit"), (self.keys, "dataset"), (self.runs, "run"))
        )
        return f"{told}: {read}, {self.bytes / 1e6:.1f} MB of data; root digest {self.root}"

    def raise_for_findings(self, *, strict: bool = False) -> None:
        """Raise where the audit failed.

        Raises
        ------
        AuditFailed
            Says the first finding and how many there are.
        """
        failures = self.failures(strict=strict)
        if failures:
            first = failures[0]
            raise AuditFailed(
                f"The audit has {len(failures)} findings; the first: {first.message}",
                key=first.key or first.run or self.location,
                expected=first.expected,
                found=first.found,
                hint=first.hint,
            )
