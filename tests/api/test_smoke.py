from fastapi.testclient import TestClient

from tests.fakes import photo


def test_index_then_match(client: TestClient) -> None:
    sent = {"id": "p1", "title": "red abc"}
    made = client.post("/catalog", data=sent, files={"image": ("a.png", photo((255, 0, 0)))})
    assert made.status_code == 201, made.text
    again = client.post("/catalog", data=sent, files={"image": ("a.png", photo((255, 0, 0)))})
    assert again.status_code == 200
    answer = client.post("/match", data={"title": "red abc"}, files={"image": ("a.png", photo((255, 0, 0)))}).json()
    assert [match["id"] for match in answer["matches"]] == ["p1"]
    assert answer["matches"][0]["score"] == 1.0
    assert client.get("/readyz").json() == {"status": "ready"}
