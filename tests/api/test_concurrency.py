"""Many callers at once, over real HTTP: each gets the answer to its own question, or is told to come back."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from tests.api.calls import Response, ask, check_problem, found, put
from tests.api.conftest import GATED, GatedEncoder, Serve
from tests.fakes import photo

THREADS = 16
WAITING = 2


def test_sixteen_callers_get_the_answers_to_their_own_questions(serve: Serve) -> None:
    client = serve(max_batch_size=8, max_at_work=THREADS)

    def own_life(n: int) -> None:
        image = photo((n * 16, 255 - n * 16, (n * 77) % 256))
        title = chr(ord("a") + n % 8) * (1 + n // 8) + "h" * (n // 8)
        for turn in range(3):
            name = f"p{n}-{turn}"
            assert put(client, name, title, image).status_code == 201
            assert name in found(ask(client, title, image, threshold=0.999999))
            single = ask(client, title, image, threshold=0.999999).json()["matches"]
            assert {match["id"].split("-")[0] for match in single} == {f"p{n}"}
            assert client.get(f"/catalog/{name}/image").content == image
            if turn:
                assert client.delete(f"/catalog/p{n}-{turn - 1}").status_code == 204
                assert f"p{n}-{turn - 1}" not in found(ask(client, title, image))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(own_life, range(THREADS)))
    assert client.get("/catalog").json()["total"] == THREADS


def test_a_full_queue_is_answered_with_429_and_empties_again(serve: Serve) -> None:
    encoder = GatedEncoder()
    client = serve(encoder, max_queue=WAITING, max_batch_size=1, max_at_work=THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            first = pool.submit(ask, client, GATED)
            assert encoder.reached.wait(60)
            rest = {pool.submit(ask, client, "title") for _ in range(10)}
            refused: set[Future[Response]] = set()
            waiting = rest
            while len(refused) < 10 - WAITING:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                refused |= done
        finally:
            encoder.gate.set()
        for one in refused:
            answer = one.result()
            check_problem(answer, [429], "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        assert first.result().status_code == 200
        assert len(waiting) == WAITING
        for one in waiting:
            assert one.result().status_code == 200
    assert ask(client, "title").status_code == 200
