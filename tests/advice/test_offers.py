"""Tables of prices and of GPUs, and what is wrong in those that somebody brings."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from eighteen.advice.devices import devices
from eighteen.advice.offers import STALE_DAYS, Offer, offers
from eighteen.base.errors import DataError

COLUMNS = ",".join(Offer.model_fields)
GOOD = "aws,p5.48xlarge,us-east-2,8,H100,192,2048,3200,55.04,11.56,,https://where.it.stands,2026-01-02"


def table(tmp_path, *lines):
    path = tmp_path / "prices.csv"
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")
    return path


def test_every_bundled_price_says_where_it_stands_and_since_when():
    for one in offers():
        assert one.source.startswith("https://"), one
        assert date(2025, 1, 1) < one.date < date(2027, 1, 1), one
        assert one.spot_usd_h is None or one.spot_usd_h < one.usd_h, one
    assert len({(one.name, one.gpus) for one in offers()}) == len(offers()), "the same offer twice"
    assert {one.cloud for one in offers()} >= {"aws", "lambda", "nebius", "oci"}


def test_every_bundled_gpu_says_where_its_figures_stand():
    for gpu, one in devices().items():
        assert one.source, gpu
        assert 0 < one.gb_s / one.tflop_s < 20, gpu
    assert devices()["A100-80GB"].resnet50_images_s == 2470


def test_a_table_of_ones_own_is_read_and_what_is_not_known_is_empty(tmp_path):
    (found,) = offers(table(tmp_path, GOOD.replace("11.56", "").replace("3200", "")))
    assert (found.name, found.usd_h) == ("aws p5.48xlarge us-east-2", 55.04)
    assert (found.spot_usd_h, found.network_gbit_s, found.spot_losses_a_day) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (GOOD.replace("55.04", "-55.04"), "line 3, usd_h: got '-55.04', need greater than 0"),
        (GOOD.replace("55.04", ""), "line 3, usd_h: got nothing, need "),
        (GOOD.replace("55.04", "cheap"), "line 3, usd_h: got 'cheap', need a valid number"),
        (GOOD.replace("55.04", "nan"), "line 3, usd_h: got 'nan', need a finite number"),
        (GOOD.replace(",8,", ",0,"), "line 3, gpus: got '0', need greater than 0"),
        (GOOD.replace("2026-01-02", "yesterday"), "line 3, date: got 'yesterday', need "),
        (GOOD.replace("https://where.it.stands", ""), "line 3, source: got nothing"),
        (GOOD.removesuffix(",2026-01-02"), "line 3: got fewer values, need 13, as in line 1"),
        (GOOD + ",more", "line 3: got more values, need 13, as in line 1"),
    ],
)
def test_holes_negative_and_mistyped_values_are_refused_with_file_and_line(tmp_path, line, said):
    path = table(tmp_path, GOOD, line)
    with pytest.raises(DataError, match=f"{path}, {re.escape(said)}") as caught:
        offers(path)
    assert "\n  Try: " in str(caught.value)


def test_a_mistyped_column_is_told_what_it_may_have_meant(tmp_path):
    path = table(tmp_path, GOOD)
    path.write_text(path.read_text().replace("usd_h,spot", "usd_hour,spot"))
    with pytest.raises(DataError, match=r"line 1: got the column 'usd_hour'.*\n.*did you mean 'usd_h'"):
        offers(path)


def test_a_table_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        offers(tmp_path / "none.csv")


def test_a_price_is_stale_after_ninety_days(tmp_path):
    (found,) = offers(table(tmp_path, GOOD))
    assert not found.is_stale(found.date + timedelta(days=STALE_DAYS))
    assert found.is_stale(found.date + timedelta(days=STALE_DAYS + 1))
