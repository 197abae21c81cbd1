"""The dependency graph as people and programs see it."""

import re

import pytest
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from producers.registry import SOURCES
from ravencore.config import RoutingSettings, Settings
from ravencore.graph import NEEDS, STORES
from ravencore.records import ServiceStatus, Subscription
from ravenctl import graphs, plans
from ravenctl.cli import app
from ravenctl.demands import Wanted
from ravenctl.graphs import Edge, Node

SETTINGS = Settings()
ROUTING = SETTINGS.routing
TIB = Wanted("ann", ("BTCUSDT",), ("BINANCE_SPOT",), ("bars.tib",), ("timescale",)).demands(ROUTING, 1)
TRADES = Subscription(venue="BINANCE_SPOT", channel="trades", symbol="BTCUSDT", state="FLOWING")
COLLECTOR = ServiceStatus(
    service="collector",
    instance="collector-0",
    host="here",
    pid=1,
    version="0",
    state="RUNNING",
    started_time=0,
    reported_time=0,
    subscriptions=(TRADES,),
)
SERVICES = [COLLECTOR, *(replace(COLLECTOR, service=name, subscriptions=()) for name in ("engine", "sink-timescale"))]
RUNNING = graphs.graph(SETTINGS, plans.running(TIB, SETTINGS), SERVICES)


def test_as_configured_it_holds_every_edge_once_and_nothing_runs() -> None:
    found = graphs.graph(SETTINGS, {}, [])
    assert len(found.edges) == len(set(found.edges))
    assert found.running == frozenset()
    names = {(edge.source.name, edge.target.name) for edge in found.edges}
    assert {(source.venue, channel) for source in SOURCES.values() for channel in source.channels} <= names
    unmade = plans.without_profile(SETTINGS.bars)
    assert unmade == {f"bars.{kind}" for kind in ("dib", "vrb", "drb", "tick", "volume", "dollar")}
    made = NEEDS.keys() - unmade
    assert {(need, output) for output in made for need in NEEDS[output]} <= names
    assert {(output, store) for store, outputs in STORES.items() for output in outputs & made} <= names
    assert not unmade & {name for edge in names for name in edge}


def test_what_a_demand_needs_runs_and_nothing_else() -> None:
    assert RUNNING.running == {
        Edge(Node("venue", "BINANCE_SPOT"), Node("output", "trades")),
        Edge(Node("output", "trades"), Node("output", "bars.tib")),
        Edge(Node("output", "bars.tib"), Node("store", "timescale")),
    }
    assert RUNNING.words[Node("output", "trades")] == "1 of 1 flow, for ann"


@pytest.mark.parametrize("state", ["REFUSED", "WAITING", "CONNECTING", "FAILED"])
def test_nothing_runs_of_a_feed_that_does_not(state: str) -> None:
    collector = replace(COLLECTOR, subscriptions=(replace(TRADES, state=state),))
    found = graphs.graph(SETTINGS, plans.running(TIB, SETTINGS), [collector, *SERVICES[1:]])
    assert found.running == frozenset()
    assert found.words[Node("output", "trades")] == "0 of 1 flow, for ann"


def test_users_may_be_called_what_they_like() -> None:
    odd = [replace(demand, user='o"ne\\il<#') for demand in TIB]
    found = graphs.graph(SETTINGS, plans.running(odd, SETTINGS), SERVICES)
    assert 'label="trades\\n1 of 1 flow, for o\\"ne\\\\il<#"' in graphs.as_dot(found)
    assert '"trades<br>1 of 1 flow, for o#quot;ne\\il#lt;#35;"' in graphs.as_mermaid(found)


def test_nothing_runs_where_its_service_does_not() -> None:
    found = graphs.graph(SETTINGS, plans.running(TIB, SETTINGS), SERVICES[:1])
    assert {edge.source.name for edge in found.running} == {"BINANCE_SPOT"}


def test_a_venue_that_is_demanded_and_not_configured_is_drawn() -> None:
    only = SETTINGS.model_copy(update={"routing": RoutingSettings(venues=["KRAKEN"])})
    found = graphs.graph(only, plans.running(TIB, SETTINGS), [])
    assert {node.name for node in found.nodes if node.kind == "venue"} == {"BINANCE_SPOT", "KRAKEN"}


def test_as_text_what_runs_is_marked() -> None:
    screen = Console(width=200, no_color=True)
    with screen.capture() as captured:
        screen.print(graphs.as_text(RUNNING))
    text = captured.get()
    assert "trades*  1 of 1 flow, for ann" in text
    assert "from BINANCE_SPOT*, BINANCE_FUTURES" in text
    assert "bars.tib*  -> timescale*, lake, redis" in text
    assert "vpin  ->" in text


def test_as_dot_every_edge_joins_nodes_that_are_declared() -> None:
    text = graphs.as_dot(RUNNING)
    declared = set(re.findall(r'^  "([a-zA-Z_0-9]+)" \[', text, re.MULTILINE))
    joined = re.findall(r'^  "([a-zA-Z_0-9]+)" -> "([a-zA-Z_0-9]+)" \[', text, re.MULTILINE)
    assert len(joined) == len(RUNNING.edges)
    assert {name for pair in joined for name in pair} == declared
    assert text.count("{") == text.count("}") == 1
    assert len(re.findall(r"->.*penwidth", text)) == 3


def test_as_mermaid_every_edge_joins_nodes_that_are_declared() -> None:
    lines = graphs.as_mermaid(RUNNING).splitlines()
    assert lines[0] == "flowchart LR"
    edges = [match for line in lines if (match := re.fullmatch(r"  (\w+) (==>|-\.->) (\w+)", line))]
    declared = {match[1] for line in lines if (match := re.match(r'  (\w+)(?:\(\(|\[\[|\[\()"', line))}
    assert len(edges) == len(RUNNING.edges)
    assert {match[side] for match in edges for side in (1, 3)} == declared
    assert sum(match[2] == "==>" for match in edges) == 3


@pytest.mark.parametrize(("how", "says"), [("text", "vpin"), ("dot", "digraph raven"), ("mermaid", "flowchart LR")])
def test_it_is_drawn_without_kafka(how: str, says: str) -> None:
    result = CliRunner().invoke(app, ["graph", "--configured", "--format", how])
    assert result.exit_code == 0, result.output
    assert says in result.stdout
