import pytest

from kd_lightning.core.schedules import Constant, Cosine, Linear, LinearWarmup, Progress, Window


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Constant(2.0), Progress(0.7, 3), 2.0),
        (LinearWarmup(20, 3.0), Progress(0.5, 10), 1.5),
        (LinearWarmup(20, 3.0), Progress(0.5, 200), 3.0),
        (LinearWarmup(20, 3.0), Progress(0.0, 0), 0.0),
        (LinearWarmup(20, 3.0, first=1), Progress(0.0, 0), 0.15),
        (LinearWarmup(20, 3.0, first=1), Progress(0.0, 19), 3.0),
        (Linear(1.0, 0.0), Progress(0.25), 0.75),
        (Cosine(1.0, 0.0), Progress(0.5), 0.5),
        (Cosine(1.0, 0.2), Progress(1.0), 0.2),
        (Window(0.2, 0.5, 4.0), Progress(0.2), 4.0),
        (Window(0.2, 0.5, 4.0), Progress(0.5), 0.0),
        (Window(), Progress(1.0), 1.0),
    ],
)
def test_value(schedule, progress, expected):
    assert schedule(progress) == pytest.approx(expected)
