"""The report of near-duplicates in every index."""

from __future__ import annotations

from clip_embeddings.duplicates import report
from clip_embeddings.duplicates.report import MAX_MEMBERS, Member, Part, StoredGroup, Summary
from clip_embeddings.index.types import MAX_PART_BYTES, Index

SUMMARY = Summary("0123456789ab", "photos", "s", 0.97, "2026-05-04T03:02:01Z", 100_000)


def read(index: Index, space: str = "s") -> list[Part]:
    first = report.read_part(index, "photos", space, 0)
    assert first is not None
    parts = [report.read_part(index, "photos", space, number) for number in range(first.parts)]
    assert report.read_part(index, "photos", space, first.parts) is None
    return [part for part in parts if part]


def test_a_report_comes_back_in_parts(index: Index) -> None:
    # Names as long as files can have, and characters of which each takes several bytes.
    groups = [
        StoredGroup(500, [Member(f"{number}/{'é' * 2040}", 2**62, 0.98)] * MAX_MEMBERS) for number in range(6)
    ]
    assert report.read_part(index, "photos", "s", 0) is None
    report.write_report(index, SUMMARY, groups)

    parts = read(index)
    assert len(parts) == 6
    assert [group for part in parts for group in part.groups] == groups
    assert {part.summary for part in parts} == {SUMMARY}
    for number in range(6):
        data = index.read_report("duplicates photos s", number)
        assert data is not None
        assert len(data) <= MAX_PART_BYTES


def test_an_empty_report_replaces_a_larger_one(index: Index) -> None:
    groups = [StoredGroup(2, [Member(f"{n}", 1, 1.0), Member(f"copy {n}", 1, 0.99)]) for n in range(10_000)]
    report.write_report(index, SUMMARY, groups)
    assert len(read(index)) > 1
    report.write_report(index, replace_space(SUMMARY), [])

    report.write_report(index, SUMMARY, [])

    (part,) = read(index)
    assert part.groups == read(index, "t")[0].groups == []


def replace_space(summary: Summary) -> Summary:
    return Summary(summary.version, summary.bucket, "t", summary.threshold, summary.made, summary.objects)


def test_a_report_of_another_version_of_this_software_is_none(index: Index) -> None:
    index.write_report("duplicates photos s", [b"not MessagePack"])

    assert report.read_part(index, "photos", "s", 0) is None
