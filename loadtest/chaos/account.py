"""Accounts for every upload and for everything in the store: each finding is explained by the log, or is a failure."""

import collections
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy import Proxy
from services import Instance, Process
from store import Store
from uploads import Upload, number_in

# A process is still at it so many seconds after a call: it pauses before another attempt,
PAUSE = 2
# and before it looks again for what a late call has done.
LATE_PAUSE = 8
# The clients' clock and the service's end are noted by different tasks.
SLACK = 0.5

KILLED = "kill -9 in flight"
LEFT = "its client left after its last byte"
NOT_ENDED = "its client never ended it"
AFTER_THE_END = "a call that arrived after its process had ended in order"
# For 17 minutes a process looks for the upload that a call without an answer may have created.
KILLED_WATCHING = "kill -9 while a lost CreateMultipartUpload was watched"
PROBE_KILLED = "kill -9 during the start-up probe"
LOGGED = "left to the sweep, as the service's log says"

CATEGORIES = (
    "lost",
    "altered",
    "doubled",
    "unacknowledged",
    "restored",
    "wrongly rejected",
    "wrongly accepted",
    "unanswered",
    "unfinished before the sweep",
    "unverified before the sweep",
    "unfinished after the sweep",
    "unverified after the sweep",
    "foreign",
    "process",
)


@dataclass
class Finding:
    category: str
    number: int
    what: str
    # Why it may be so; without a reason it is a failure.
    reason: str | None = None


@dataclass
class Account:
    uploads: dict[int, Upload]
    proxy: Proxy
    instances: list[Instance]
    findings: list[Finding] = field(default_factory=list)

    def add(self, category: str, number: int, what: str, reason: str | None = None) -> None:
        self.findings.append(Finding(category, number, what, reason))

    # Reasons

    def caller(self, call) -> Process:
        return self.instances[call.instance].at(call.began)

    def cut_short(self, number: int) -> str | None:
        """Whether a process ended in the middle of what it did for this upload."""
        for call in self.proxy.calls[number]:
            if call.presigned:
                continue
            process = self.caller(call)
            until = call.arrived + LATE_PAUSE if call.arrived else call.ended + PAUSE
            if process.killed and process.told <= until:
                return KILLED
            if call.arrived and process.ended and process.ended <= call.arrived:
                return AFTER_THE_END
        return None

    def watch_cut_short(self, number: int) -> str | None:
        """Whether the upload is of a call without an answer, whose process was killed while it looked for it."""
        creates = [call for call in self.proxy.calls[number] if call.operation == "CreateMultipartUpload"]
        killed = any(call.fault and not call.presigned and self.caller(call).killed for call in creates)
        return KILLED_WATCHING if killed else None

    def probe_cut_short(self, key: str) -> str | None:
        """Whether the object is of the start-up probe of a process that was killed: the probe belongs to no upload."""
        return PROBE_KILLED if any(self.caller(call).killed for call in self.probe_calls(key)) else None

    def probe_calls(self, key: str) -> list:
        return [call for call in self.proxy.calls[0] if call.key == key and not call.presigned]

    def logged(self, number: int) -> str | None:
        key = self.uploads[number].key if number else None
        marks = ("sweep removes it", "left to the sweep", "stopped watching")
        lines = self.log_of(key) if key else []
        return LOGGED if any(mark in line for line in lines for mark in marks) else None

    def log_of(self, key: str) -> list[str]:
        return [line for instance in self.instances for line in instance.log.read_text().splitlines() if key in line]

    # What clients saw

    def clients(self) -> None:
        for upload in self.uploads.values():
            for what in upload.wrong:
                category, _, rest = what.partition(": ")
                self.add(category, upload.number, rest)
            for request in upload.unanswered:
                if not self.ended_meanwhile(request):
                    self.add("unanswered", upload.number, request.what)
            for what in upload.open:
                self.add("unanswered", upload.number, f"{what} is still undecided")

    def ended_meanwhile(self, request) -> bool:
        return any(
            process.told and process.told <= request.ended + SLACK and request.began <= process.ended
            for process in self.instances[request.instance].processes
        )

    # What the store holds

    def images(self, store: Store) -> None:
        found = collections.Counter()
        for file in store.images():
            content = file.content()
            number = number_in(content)
            upload = self.uploads.get(number)
            if upload is None:
                self.add("foreign", 0, file.name)
                continue
            found[number] += 1
            if hashlib.sha256(content).hexdigest() != upload.sha256:
                self.add("altered", number, f"{file.name}: {len(content)} bytes")
            if upload.key not in (None, file.name):
                self.add("doubled", number, f"{file.name} beside {upload.key}", self.cut_short(number))
        for upload in self.uploads.values():
            self.image(upload, found[upload.number])

    def image(self, upload: Upload, found: int) -> None:
        number = upload.number
        if found > 1:
            self.add("doubled", number, f"{found} images", self.cut_short(number))
        if upload.withdrawn and found:
            self.add("restored", number, "there after its delete or abort was answered")
        elif upload.stored and not upload.withdrawn and not found:
            self.add("lost", number, "not there after its success was answered")
        elif found and not upload.stored:
            left = LEFT if upload.left == "after its last byte" else None
            self.add("unacknowledged", number, "there without a success", left or self.cut_short(number))

    def unfinished(self, store: Store, when: str) -> None:
        for upload_id in store.unfinished():
            number, call = self.proxy.begun.get(upload_id, (0, None))
            what = f"{upload_id[:12]} of {call.key}" if call else upload_id
            reason = None
            if when == "before":
                reason = self.reason_to_be_left(number, call.key if call else "") or self.watch_cut_short(number)
            self.add(f"unfinished {when} the sweep", number, what, reason)

    def unverified(self, store: Store, when: str) -> None:
        for file in store.incoming():
            if file.is_marker and when == "before":
                continue
            number = self.proxy.numbers.get(file.name, 0)
            reason = self.reason_to_be_left(number, f"incoming/{file.name}") if when == "before" else None
            self.add(f"unverified {when} the sweep", number, file.name, reason)

    def reason_to_be_left(self, number: int, key: str) -> str | None:
        upload = self.uploads.get(number)
        if upload is None:
            return self.probe_cut_short(key)
        is_its_own = key == f"incoming/{upload.key}"
        is_over = upload.stored or upload.withdrawn or upload.refused
        never_ended = NOT_ENDED if is_its_own and not is_over else None
        return never_ended or self.cut_short(number) or self.logged(number)

    # The processes

    def processes(self, limit_mib: int) -> None:
        for _, process in self.all_processes():
            peak = process.peak >> 10
            if peak >= limit_mib:
                self.add("process", 0, f"peak resident memory {peak} MiB of {limit_mib}")
            if not process.killed and process.status != 0:
                took = process.ended - process.told
                self.add("process", 0, f"exit status {process.status}, {took:.1f} s after SIGTERM")

    def all_processes(self) -> Iterable[tuple[Instance, Process]]:
        return ((instance, process) for instance in self.instances for process in instance.processes)

    # The report

    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.reason is None]

    def report(self) -> str:
        lines = [f"{'':30}{'found':>8}{'explained':>12}{'failures':>12}"]
        for category in CATEGORIES:
            found = [finding for finding in self.findings if finding.category == category]
            reasons = collections.Counter(finding.reason for finding in found if finding.reason)
            explained = sum(reasons.values())
            why = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
            lines.append(f"{category:30}{len(found):>8}{explained:>12}{len(found) - explained:>12}  {why}".rstrip())
        return "\n".join(lines)

    def probe_history(self, name: str) -> str:
        """All that happened to an object of a start-up probe."""
        calls = sorted(self.probe_calls(f"incoming/{name}"), key=lambda call: call.began)
        ends = [f"process {self.caller(call).__dict__}" for call in calls[:1]]
        return "\n".join([name, *(f"  {call.began:.2f} {call}" for call in calls), *ends, *self.log_of(name)])

    def history(self, number: int) -> str:
        """All that happened to an upload, in seconds from its beginning."""
        upload = self.uploads[number]
        # The checks for late effects belong to no request.
        own = (upload.key, f"incoming/{upload.key}")
        calls = self.proxy.calls[number] + [call for call in self.proxy.calls[0] if call.key in own]
        events = [(moment, f"client: {what}") for moment, what in upload.events]
        events += [(call.began, f"store: {call}") for call in calls]
        first, last = min(events)[0], max(events)[0]
        for instance, process in self.all_processes():
            how = "kill -9" if process.killed else "SIGTERM"
            ends = [(process.told, f"{how} to {instance.number}"), (process.ended, f"{instance.number} has ended")]
            events += [event for event in ends if event[0] and first - 1 <= event[0] <= last + LATE_PAUSE]
        lines = [f"upload {number}: {upload.way}, {upload.act}, {upload.size} bytes, {upload.key}"]
        lines += [f"  {moment - first:6.2f} {what}" for moment, what in sorted(events)]
        lines += [f"  log: {line}" for line in (self.log_of(upload.key) if upload.key else [])]
        return "\n".join(lines)
