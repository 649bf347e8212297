"""The official Python client of the OpenAI API against the daemon."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

import httpx2
import openai
from peer import ENDLESS, MODEL, TALKER, Daemon, run

LINE = [{"role": "user", "content": "Summarize in one line.\nA daemon that keeps the clock of the machine right."}]
daemon = None


def client(of=None, **settings):
    settings = {"api_key": "none", "max_retries": 0, "timeout": 60, **settings}
    return openai.OpenAI(base_url=f"{(of or daemon).url}/v1", **settings)


def refused(kind, call, *words):
    """Checks that a call fails with this class of the client's exceptions, and says these words."""
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{error!r} is not {kind}"
        assert all(word in str(error) for word in words), (words, error)
        assert error.body["message"] and error.body["type"], error.body
        return error
    raise AssertionError(f"nothing was refused; {kind} was expected")


def test_models():
    models = client().models.list().data
    assert [(model.id, model.object, model.owned_by) for model in models] == [(MODEL, "model", "tern")]
    assert client().models.retrieve(MODEL).id == MODEL
    refused(openai.NotFoundError, lambda: client().models.retrieve("gpt-x"), "gpt-x", MODEL)


def test_chat():
    answer = client().chat.completions.create(model=MODEL, messages=LINE, max_completion_tokens=20, user="me", n=1)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.created > 1_700_000_000
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 5 and 1 <= usage.completion_tokens <= 20
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    # Beside what the client knows: what it cost.
    energy = answer.model_extra["energy"]
    assert (energy["joules"] is None) == (energy["method"] == "unknown"), energy
    assert answer.model_extra["timings"]["predicted_n"] == usage.completion_tokens
    cut = client().chat.completions.create(model=MODEL, messages=LINE, max_tokens=1)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 1


def test_chat_streams_what_it_would_say_at_once():
    settings = {"model": MODEL, "messages": LINE, "max_completion_tokens": 20}
    whole = client().chat.completions.create(**settings)
    stream = client().chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    *before, end, last = chunks
    assert before[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content for chunk in before)
    assert text == whole.choices[0].message.content
    assert end.choices[0].finish_reason == whole.choices[0].finish_reason
    assert "energy" in end.model_extra
    # What it took to get there differs: the second time the prompt was there already.
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert last.choices == [] and all(getattr(last.usage, n) == getattr(whole.usage, n) for n in counted)
    cached = last.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < last.usage.prompt_tokens, last.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    # The client's own collector agrees.
    with client().chat.completions.stream(**settings) as collector:
        assert collector.get_final_completion().choices[0].message.content == text


def test_completions():
    settings = {"model": MODEL, "prompt": ENDLESS, "max_tokens": 8}
    whole = client().completions.create(**settings)
    assert whole.object == "text_completion" and whole.usage.completion_tokens == 8
    chunks = list(client().completions.create(**settings, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    stop = whole.choices[0].text[3:5]
    cut = client().completions.create(**settings, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == whole.choices[0].text.split(stop)[0]


def test_chance_is_repeated_by_its_seed():
    def say(**settings):
        answer = client().completions.create(model=MODEL, prompt="The", max_tokens=16, temperature=1.5, **settings)
        return answer.choices[0].text

    assert say(seed=7) == say(seed=7)
    assert len({say() for _ in range(4)}) > 1
    assert len({say(top_p=1e-6) for _ in range(3)}) == 1


def test_errors_are_the_clients_own():
    chat = client().chat.completions.create
    error = refused(openai.NotFoundError, lambda: chat(model="gpt-x", messages=LINE), "gpt-x")
    assert (error.code, error.param) == ("model_not_found", "model")
    error = refused(openai.BadRequestError, lambda: chat(model=MODEL, messages=LINE, n=2), "n = 2")
    assert error.param == "n"
    refused(openai.BadRequestError, lambda: chat(model=MODEL, messages=[]), "0 messages")
    refused(openai.BadRequestError, lambda: chat(model=MODEL, messages=LINE, temperature=-1), "temperature")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    refused(openai.BadRequestError, lambda: chat(model=MODEL, messages=LINE, tools=[tool]), "tools")
    long = [{"role": "user", "content": "x " * 40_000}]
    error = refused(openai.APIStatusError, lambda: chat(model=MODEL, messages=long), "65536")
    assert error.status_code == 413
    refused(openai.NotFoundError, lambda: client().embeddings.create(model=MODEL, input="x"), "/v1/embeddings")


def test_a_key_is_needed_where_one_is_set():
    with Daemon('key = { file = "FOLDER/key" }\n', files={"key": "open sesame\n"}) as locked:
        list_models = lambda key: client(locked, api_key=key).models.list()
        assert list_models("open sesame").data[0].id == MODEL
        error = refused(openai.AuthenticationError, lambda: list_models("wrong"), "key")
        assert error.code == "invalid_api_key"
        assert httpx2.get(f"{locked.url}/health").json() == {"status": "ok"}


def test_a_unix_socket_serves_the_same_client():
    with Daemon('listen = "unix:FOLDER/h.sock"\n') as local:
        transport = httpx2.HTTPTransport(uds=local.url)
        over = openai.OpenAI(base_url="http://tern/v1", api_key="x", http_client=httpx2.Client(transport=transport))
        assert over.models.list().data[0].id == MODEL


def test_a_full_queue_is_a_rate_limit():
    config = f"""limits.queue = 1
[model]
path = "{TALKER}"
threads = 1
kernels = "scalar-t2i8"
slots = 1"""
    with Daemon(config=config) as small:

        def talk(_):
            try:
                return client(small).completions.create(model="tern", prompt="Hello").usage.completion_tokens
            except openai.RateLimitError as error:
                return error

        # One runs, one waits, and the others come at the same time.
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(talk, range(8)))
        refused = [error for error in found if isinstance(error, openai.RateLimitError)]
        assert refused and all(error.code == "queue_full" for error in refused), found
        assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
        assert [tokens for tokens in found if tokens not in refused and tokens > 200], found
        # The client's own retries wait as they are told, and get through.
        with ThreadPoolExecutor(4) as pool:
            patient = client(small, max_retries=20)
            calls = pool.map(lambda _: patient.completions.create(model="tern", prompt="Hello"), range(4))
            assert all(call.usage.completion_tokens > 200 for call in calls)


if __name__ == "__main__":
    print(f"openai {openai.__version__}")
    with Daemon() as daemon:
        run(globals())
