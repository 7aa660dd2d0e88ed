# SPDX-License-Identifier: Apache-2.0
"""Prints the scores of several models side by side, with the paper's beside them, and writes them as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion_runtime.commands.json_output import printer, write_json
from freqfusion_runtime.evaluation.account import Account
from freqfusion_runtime.evaluation.published import Benchmark, Published, published_for

from freqfusion_export.evaluation.drop_gate import nothing_to_score, too_low
from freqfusion_export.evaluation.object_finders import Contestant
from freqfusion_export.evaluation.segmenters import sha256_of_model


@dataclass(frozen=True)
class Scored:
    """What a model reached.

    Args:
        contestant: The model.
        scores: By name, in [0, 1]; None where nothing counts. The names of the paper's numbers are among them.
        per_class: The same for each class.
    """

    contestant: Contestant
    scores: Mapping[str, float | None]
    per_class: Mapping[str, Mapping[str, float | None]]


def report(
    args: argparse.Namespace,
    results: Sequence[Scored],
    main: Sequence[str],
    facts: Mapping[str, Any],
    account: Account,
    benchmark: Benchmark | None,
) -> int:
    """Prints and writes the results.

    Raises:
        EvaluationError: If a main score of a model is of nothing.

    Args:
        args: Of the command.
        results: Of the models, in the order given.
        main: Names of the scores that ``--max-drop`` is about.
        facts: About the data set, for the JSON.
        account: What was scored, ignored and dropped.
        benchmark: What was scored, if it is the whole of one.

    Returns:
        The exit status.
    """
    if unscored := [name for name in main if any(each.scores[name] is None for each in results)]:
        raise nothing_to_score(unscored, account.dropped)
    say = printer(args.json)
    say(", ".join(f"{key} {value}" for key, value in facts.items()))
    for line in account.lines():
        say(line)
    papers = [_paper(each.contestant, benchmark) for each in results]
    for line in _table(results, papers):
        say(line)
    drops = [_drop(each, results[0], main) for each in results]
    behind = too_low(args.models, drops, args.max_drop, say)
    entries = [
        {
            "model": str(each.contestant.path),
            "sha256": sha256_of_model(each.contestant.path),
            "name": each.contestant.model,
            "backend": each.contestant.backend,
            "notes": list(each.contestant.notes),
            "scores": dict(each.scores),
            "per_class": {name: dict(values) for name, values in each.per_class.items()},
            "published_percent": {
                name: {"paper": number.paper, "released": number.released or number.paper}
                for name, number in paper.items()
            },
        }
        for each, paper in zip(results, papers, strict=True)
    ]
    write_json(args.json, {"task": args.task, **facts, **account.facts(), "too_low": behind, "models": entries})
    return 1 if behind or account.dropped_counts["pictures"] else 0


def _paper(contestant: Contestant, benchmark: Benchmark | None) -> Mapping[str, Published]:
    manifest = contestant.finder.session.manifest
    return published_for(manifest.model, manifest.weights, manifest.classes, benchmark)


def _table(results: Sequence[Scored], papers: Sequence[Mapping[str, Published]]) -> list[str]:
    """One row a score or class, one column a model and, where there is one, its published counterpart."""
    lines = []
    for number, each in enumerate(results, 1):
        lines.append(f"[{number}] {each.contestant.path}: {each.contestant.model}, {each.contestant.backend}")
        lines += [f"    {note}" for note in each.contestant.notes]
    titles, columns = [], []
    for number, (each, paper) in enumerate(zip(results, papers, strict=True), 1):
        titles.append(f"[{number}]")
        columns.append({name: _percent(score) for name, score in each.scores.items()})
        if paper:
            titles.append(f"[{number}] published")
            columns.append({name: _published(number) for name, number in paper.items()})
    lines += _rows("%", list(results[0].scores), titles, columns)
    for title, values in results[0].per_class.items():
        columns = [{name: _percent(v) for name, v in each.per_class[title].items()} for each in results]
        lines += _rows(title, list(values), [f"[{number + 1}]" for number in range(len(results))], columns)
    return lines


def _rows(title: str, names: Sequence[str], titles: Sequence[str], columns: Sequence[Mapping[str, str]]) -> list[str]:
    first = max(map(len, [title, *names]))
    widths = [max(8, len(title)) for title in titles]
    lines = ["", f"{title:<{first}}  " + "  ".join(map(str.rjust, titles, widths))]
    for name in names:
        cells = [column.get(name, "") for column in columns]
        lines.append((f"{name:<{first}}  " + "  ".join(map(str.rjust, cells, widths))).rstrip())
    return lines


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{score * 100:.2f}"


def _published(number: Published) -> str:
    return f"{number.paper} ({number.released})" if number.released is not None else str(number.paper)


def _drop(each: Scored, first: Scored, main: Sequence[str]) -> float:
    """How many points a model is below the first, in the worst of the main scores."""
    pairs = [(first.scores[name], each.scores[name]) for name in main]
    return max((best - own) * 100 for best, own in pairs if best is not None and own is not None)
