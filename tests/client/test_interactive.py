"""A conversation that the server keeps."""

from lmcourse.client import InteractiveTalk
from lmcourse.config import GenerationConfig


def test_conversation_goes_on_from_another_client(stand_in) -> None:
    with InteractiveTalk(stand_in.url, session_id=5) as one, InteractiveTalk(stand_in.url, session_id=5) as two:
        for talk, said in ((one, "hello"), (two, "there")):
            session = talk.session()
            with session.stream(said, GenerationConfig(max_new_tokens=8)) as stream:
                pieces = list(stream)
        assert "".join(piece.text for piece in pieces) == "hello and there"
        assert session.response is not None
        assert (session.response.generate_token_len, session.response.input_token_len) == (2, 7)
        body = stand_in.bodies[-1]
        assert (body["request_output_len"], body["session_id"], body["temperature"]) == (8, 5, 0)
        assert "model" not in body
        session.close()
        assert stand_in.history == {}
