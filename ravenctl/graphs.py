"""The dependency graph, as it is configured and as it runs: for a person, for Graphviz and for Mermaid; pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from producers.registry import SOURCES
from producers.routing import is_named
from ravencore.config import Settings
from ravencore.graph import NEEDS, STORES, origin
from ravencore.records import FeedName, ServiceStatus
from ravenctl.plans import Made, Thing, without_profile

Format = Literal["text", "dot", "mermaid"]
Kind = Literal["venue", "output", "store"]
RUNS = frozenset({"SUBSCRIBED", "FLOWING"})
"""States of feeds that bring what there is."""


class Node(NamedTuple):
    """A venue, an output or a store."""

    kind: Kind
    name: str


class Edge(NamedTuple):
    """What flows from one node into another."""

    source: Node
    target: Node


@dataclass(frozen=True)
class Graph:
    """All edges in the order of the stream, those of them that run, and a word on some nodes."""

    edges: tuple[Edge, ...]
    running: frozenset[Edge]
    words: Mapping[Node, str]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node once, in the order of the stream."""
        return tuple(dict.fromkeys(node for edge in self.edges for node in edge))

    def runs(self, node: Node) -> bool:
        """Whether anything flows into or out of a node."""
        return any(node in edge for edge in self.running)


def graph(settings: Settings, things: Mapping[Thing, tuple[str, ...]], statuses: Sequence[ServiceStatus]) -> Graph:
    """The graph of the configured venues and profiles, and of what demands name, with what runs of it."""
    unmade = without_profile(settings.bars)
    drawn = [edge for edge in _configured(settings.routing.venues) if unmade.isdisjoint(node.name for node in edge)]
    demanded = [*_demanded(things)]
    there = {status.service for status in statuses}
    subscribed = {
        Edge(Node("venue", feed.venue), Node("output", feed.channel))
        for status in statuses
        for feed in status.subscriptions
        if feed.state in RUNS
    }
    ordered = sorted(
        dict.fromkeys([*drawn, *demanded]), key=lambda edge: ("venue", "output", "store").index(edge.source.kind)
    )
    fed = {edge.target.name for edge in subscribed}
    running = frozenset(
        edge for edge in demanded if edge in subscribed or (_service(edge) in there and origin(edge.source.name) in fed)
    )
    return Graph(tuple(ordered), running, dict(_words(things, statuses)))


def _service(edge: Edge) -> str | None:
    """Who lets it flow, from an output on."""
    if edge.source.kind == "venue":
        return None
    return f"sink-{edge.target.name}" if edge.target.kind == "store" else "engine"


def _configured(venues: Collection[str]) -> Iterator[Edge]:
    for source in SOURCES.values():
        for channel in source.channels:
            if is_named(source, channel, venues):
                yield Edge(Node("venue", source.venue), Node("output", channel))
    for output, needs in NEEDS.items():
        yield from (Edge(Node("output", need), Node("output", output)) for need in needs)
    for store, outputs in STORES.items():
        yield from (Edge(Node("output", output), Node("store", store)) for output in NEEDS if output in outputs)


def _demanded(things: Iterable[Thing]) -> Iterator[Edge]:
    for thing in things:
        if isinstance(thing, FeedName):
            yield Edge(Node("venue", thing.venue), Node("output", thing.channel))
        elif isinstance(thing, Made):
            yield from (Edge(Node("output", need), Node("output", thing.output)) for need in NEEDS[thing.output])
        else:
            yield Edge(Node("output", thing.output), Node("store", thing.store))


def _words(things: Mapping[Thing, tuple[str, ...]], statuses: Sequence[ServiceStatus]) -> Iterator[tuple[Node, str]]:
    """Of a channel, how many of its feeds flow; of a store, how its sink is."""
    flowing = {
        FeedName(feed.venue, feed.channel, feed.symbol)
        for status in statuses
        for feed in status.subscriptions
        if feed.state == "FLOWING"
    }
    for channel in dict.fromkeys(thing.channel for thing in things if isinstance(thing, FeedName)):
        feeds = [thing for thing in things if isinstance(thing, FeedName) and thing.channel == channel]
        users = sorted({user for feed in feeds for user in things[feed]})
        yield (
            Node("output", channel),
            f"{len(flowing.intersection(feeds))} of {len(feeds)} flow, for {', '.join(users)}",
        )
    for status in statuses:
        if status.service.startswith("sink-"):
            yield Node("store", status.service.removeprefix("sink-")), status.state


# As text


def as_text(found: Graph) -> RenderableType:
    """A tree for each channel: where it comes from, what is made of it and who keeps it; bold is what runs."""
    return Group(*(_tree(found, node) for node in found.nodes if node.kind == "output" and not NEEDS[node.name]))


def _tree(found: Graph, channel: Node) -> Tree:
    venues = [edge for edge in found.edges if edge.target == channel]
    tree = Tree(_line(found, channel))
    if venues:
        parts = [_name(edge.source.name, runs=edge in found.running) for edge in venues]
        tree.add(Text("from ").append_text(Text(", ").join(parts)))
    kept = _kept(found, channel)
    if kept is not None:
        tree.add(kept)
    for edge in found.edges:
        if edge.source == channel and edge.target.kind == "output":
            line = _name(edge.target.name, runs=edge in found.running)
            stores = _kept(found, edge.target)
            tree.add(line.append("  ").append_text(stores) if stores else line)
    return tree


def _line(found: Graph, node: Node) -> Text:
    words = found.words.get(node)
    return _name(node.name, runs=found.runs(node)).append(f"  {words}" if words else "", style="not bold default")


def _kept(found: Graph, output: Node) -> Text | None:
    edges = [edge for edge in found.edges if edge.source == output and edge.target.kind == "store"]
    if not edges:
        return None
    parts = [_name(edge.target.name, runs=edge in found.running) for edge in edges]
    return Text("-> ").append_text(Text(", ").join(parts))


def _name(name: str, *, runs: bool) -> Text:
    return Text(f"{name}*" if runs else name, style="bold green" if runs else "dim")


# As a drawing


def as_dot(found: Graph) -> str:
    """For Graphviz: what runs is solid and green."""
    lines = ["digraph raven {", "  rankdir=LR;", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in found.nodes:
        colour = ', color="darkgreen", fontcolor="darkgreen", penwidth=2' if found.runs(node) else ', color="gray"'
        label = _label(found, node, "\\n", {"\\": "\\\\", '"': '\\"'})
        lines.append(f'  "{_id(node)}" [label="{label}"{colour}];')
    for edge in found.edges:
        how = "color=darkgreen, penwidth=2" if edge in found.running else "color=gray, style=dashed"
        lines.append(f'  "{_id(edge.source)}" -> "{_id(edge.target)}" [{how}];')
    return "\n".join([*lines, "}"])


def as_mermaid(found: Graph) -> str:
    """For Mermaid, as GitHub draws it: what runs has thick arrows and is green."""
    lines = ["flowchart LR"]
    for node in found.nodes:
        left, right = {"venue": ("((", "))"), "output": ("[[", "]]"), "store": ("[(", ")]")}[node.kind]
        mark = ":::running" if found.runs(node) else ""
        label = _label(found, node, "<br>", {"#": "#35;", '"': "#quot;", "<": "#lt;"})
        lines.append(f'  {_id(node)}{left}"{label}"{right}{mark}')
    for edge in found.edges:
        arrow = "==>" if edge in found.running else "-.->"
        lines.append(f"  {_id(edge.source)} {arrow} {_id(edge.target)}")
    return "\n".join([*lines, "  classDef running stroke:#070,stroke-width:3px"])


def _id(node: Node) -> str:
    return f"{node.kind}_{node.name}".replace(".", "_")


def _label(found: Graph, node: Node, newline: str, escapes: dict[str, str | int | None]) -> str:
    """Users are called what they like."""
    words = found.words.get(node, "").translate(str.maketrans(escapes))
    return f"{node.name}{newline}{words}" if words else node.name


def for_scripts(found: Graph) -> list[dict[str, object]]:
    """Its edges as JSON values."""
    return [
        {"from": edge.source.name, "to": edge.target.name, "kind": edge.target.kind, "running": edge in found.running}
        for edge in found.edges
    ]
