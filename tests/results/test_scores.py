import numpy as np
import pytest

from eighteen.results.scores import expected_calibration_error


@pytest.mark.parametrize(
    ("bins", "error"),
    [
        ([(8, 7.8, 6), (2, 1.0, 1)], 0.18),  # 0.8 * |0.975 - 0.75| + 0.2 * |0.5 - 0.5|
        ([(10, 10.0, 10)], 0.0),
        ([(4, 4.0, 0), (0, 0.0, 0)], 1.0),
        ([(1, 0.9, 0), (1, 0.2, 1)], 0.85),  # gaps do not cancel between bins
        ([(0, 0.0, 0)], 0.0),
    ],
)
def test_expected_calibration_error_weighs_each_bins_gap_by_its_samples(bins, error):
    assert expected_calibration_error(np.array(bins, np.float64)) == pytest.approx(error)
