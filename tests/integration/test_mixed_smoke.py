"""Ten seconds of the soak's mixed traffic against the computable model: every kind of call, and no error."""

from __future__ import annotations

from pathlib import Path

from tests.api.conftest import make_app, running
from tests.mixed import Record, sample, traffic

SECONDS = 10.0


def test_mixed_traffic_with_churn_meets_no_error(tmp_path: Path) -> None:
    with running(make_app(tmp_path, None)) as client:
        url = str(client.base_url)
        with traffic(url) as record:
            sample(url, record, every_s=0.5, for_s=SECONDS)
        idle = Record()
        sample(url, idle, every_s=0.1, for_s=0.2)
    assert record.errors == []
    assert {"put", "match", "browse"} <= {call.kind for call in record.calls}
    assert len(record.samples) > 3
    assert all(one.resident_bytes > 0 and one.files > 0 and one.threads > 0 for one in record.samples)
    assert idle.samples[-1].in_flight == 1  # the scrape itself
