"""Prices of this moment, asked of a server that answers as AWS does; and what is shown where nobody answers."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta

import pytest
from recorded import Recorded, serving

from eighteen import cli
from eighteen.advice.offers import offers
from eighteen.base.errors import MachineError
from eighteen.cloud import aws

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
LATELY = datetime.now(UTC).replace(microsecond=0)
P4, P5 = "p4d.24xlarge", "p5.48xlarge"


def hours_ago(hours, of=NOW):
    return of - timedelta(hours=hours)


@pytest.fixture
def account(monkeypatch, tmp_path):
    """Credentials for a server of our own, and no others."""
    for name, value in {"ACCESS_KEY_ID": "lab", "SECRET_ACCESS_KEY": "canary-of-the-secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_all_regions_are_asked_page_by_page(monkeypatch, account):
    east = [(P4, "us-east-1a", "8.0", hours_ago(30)), (P4, "us-east-1a", "10.0", hours_ago(6))]
    west = [(P4, "us-west-2b", "7.5", hours_ago(100)), (P5, "us-west-2b", "20.0", hours_ago(1))]
    recorded = Recorded({"us-east-1": east, "us-west-2": west}, {(P4, "us-east-1"): "21.96"}, page=1)
    with serving(recorded) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        told = aws.ask([P4, P5], hours=24, now=NOW)
    assert not told.silent
    found = {(one.instance, one.zone): one for one in told.spots}
    assert {*found} == {(P4, "us-east-1a"), (P4, "us-west-2b"), (P5, "us-west-2b")}
    moved = found[P4, "us-east-1a"]
    assert (moved.usd_h, moved.low_usd_h, moved.high_usd_h, moved.since) == (10.0, 8.0, 10.0, hours_ago(6))
    assert moved.mean_usd_h == pytest.approx((18 * 8 + 6 * 10) / 24)
    assert found[P5, "us-west-2b"].mean_usd_h == 20.0  # there was no other in the last hours
    assert told.on_demand == {(P4, "us-east-1"): 21.96}


def test_a_region_that_refuses_is_named_and_the_others_are_told(monkeypatch, account):
    recorded = Recorded(
        {"us-east-1": [(P4, "us-east-1a", "8.0", hours_ago(1))]}, refused={"me-south-1": "OptInRequired"}
    )
    with serving(recorded) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        told = aws.ask([P4], regions=["us-east-1", "me-south-1"], now=NOW)
        assert [one.zone for one in told.spots] == ["us-east-1a"]
        assert told.silent == {"me-south-1": "OptInRequired: not for you"}
        with pytest.raises(MachineError, match="OptInRequired"):
            aws.ask([P4], regions=["me-south-1"], now=NOW)


def test_the_cheapest_comes_first_and_the_table_can_be_planned_with(monkeypatch, account, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    east = [(P4, "us-east-1a", "9.5", hours_ago(3, LATELY)), (P4, "us-east-1b", "8.25", hours_ago(2, LATELY))]
    recorded = Recorded({"us-east-1": east}, {(P4, "us-east-1"): "22.0"})
    path = tmp_path / "now.csv"
    with serving(recorded) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        words = [
            "prices",
            "--gpu",
            "A100",
            "--regions",
            "us-east-1",
            "--prices",
            str(table(tmp_path)),
            "--csv",
            str(path),
        ]
        assert cli.main(words) == 0
    shown = capsys.readouterr()
    first, second = [line for line in shown.out.splitlines() if P4 in line]
    assert "us-east-1b" in first
    assert "8.25" in first
    assert "62%" in first.replace(" ", "")
    assert "us-east-1a" in second
    assert "canary" not in shown.out + shown.err
    found = offers(path)
    assert [(one.region, one.spot_usd_h, one.usd_h) for one in found] == [
        ("us-east-1a", 9.5, 22.0),
        ("us-east-1b", 8.25, 22.0),
    ]
    assert {one.date for one in found} == {datetime.now(UTC).date()}


def table(folder):
    """What is known of two machines, with old prices."""
    path = folder / "table.csv"
    rows = [one for one in offers() if (one.cloud, one.gpu) == ("aws", "A100")][:1] + [
        one for one in offers() if one.cloud == "gcp"
    ][:1]
    with path.open("w") as file:
        written = csv.DictWriter(file, type(rows[0]).model_fields)
        written.writeheader()
        written.writerows({name: "" if value is None else value for name, value in row} for row in rows)
    return path


def test_without_credentials_the_table_is_shown_with_its_dates(monkeypatch, account, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert cli.main(["prices", "--gpu", "A100", "--regions", "us-east-1"]) == 0
    shown = capsys.readouterr()
    assert "no credentials; prices are those of the table" in shown.err
    assert str(next(one.date for one in offers() if one.gpu == "A100")) in shown.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "H10O"], "did you mean 'H100'"),
        (["--regions", "moon-1", "--table"], "no price in moon-1"),
        (["--hours", "0", "--table"], "--hours"),
        (["--csv", "nowhere/now.csv", "--table"], "a .csv file in a folder that exists"),
    ],
)
def test_what_cannot_be_asked_is_said(words, said, capsys):
    assert cli.main(["prices", *words]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
