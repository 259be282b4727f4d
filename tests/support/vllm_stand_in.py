"""A server that speaks what upslope uses of vLLM's HTTP, and computes with a real tiny model; its faults are chosen.

In a test's own process: ``StandIn(folder)``. As the program that upslope starts in vLLM's place: this file, called with
vLLM's arguments.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from upslope.cluster.vllm.worker import WeightsDigest, tensors_in
from upslope.model.distribution import adjusted
from upslope.model.hf import cache_keyword
from upslope.types import Sampling

POSITIONS = 256
FAULTS = (
    "stale_head",  # a reload leaves the head as it was, as vLLM's own does on a CPU
    "stale_cache",  # keys and values of prompts outlive new weights
    "busy_cache",  # it says that the cache cannot be emptied
    "wrong_version",
    "wrong_label",
    "wrong_spans",
    "wrong_checksum",
    "no_method",
    "hang",
    "die",
    "break_off",
    "abort",
    "no_number",
    "say_error",
)


class StandIn:
    """Serves the model of a folder until ``close``; ``faults`` may change while it runs."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.faults: set[str] = set()
        self.asked: list[tuple[str, Any]] = []
        self.label, self.paused = "default", False
        self._lock = threading.Lock()
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._head = self._model.get_output_embeddings().weight.detach().clone()
        self._kept: dict[tuple[int, ...], Any] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"of": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.faults.clear()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def join(self) -> None:
        self._thread.join()

    # -- what the server is asked -------------------------------------------------------------------------------

    def load(self, folder: str, version: str) -> dict[str, Any]:
        """What ``WeightsExtension.upslope_load`` does."""
        digest, own = WeightsDigest(), dict(self._model.named_parameters())
        for name, tensor in tensors_in(folder):
            digest.add(name, tensor)
            if name in own:
                own[name].data.copy_(tensor)
        if "stale_head" not in self.faults:
            self._head = self._model.get_output_embeddings().weight.detach().clone()
        return {
            "version": "0?" if "wrong_version" in self.faults else version,
            "checksum": "0" * 64 if "wrong_checksum" in self.faults else digest.value(),
            "num_tensors": digest.num_tensors,
            "num_repacked": 1,
        }

    def forget(self) -> bool:
        if "stale_cache" not in self.faults:
            self._kept.clear()
        return "busy_cache" not in self.faults

    @torch.no_grad()
    def write(self, prompt: list[int], how: dict[str, Any]) -> Any:
        """Yields (token, logp, whether it is the last, why)."""
        sampling = Sampling(how["temperature"], how["top_k"], how["top_p"], how["min_tokens"], how["max_tokens"])
        ends, bias_V = torch.tensor(how["stop_token_ids"]), torch.zeros(len(self._head))
        for token, bias in how.get("logit_bias", {}).items():
            bias_V[int(token)] = bias
        chance = torch.Generator().manual_seed(how.get("seed", 0))
        cache, ids = self._prefix(prompt), prompt[-1:]
        for position in range(sampling.max_tokens):
            with self._lock:
                logits_1V = self._hidden(ids, cache) @ self._head.T
            logp_V = adjusted(logits_1V + bias_V, torch.tensor([position]), sampling, ends).log_softmax(dim=1)[0]
            token = int(logp_V.argmax() if sampling.greedy else torch.multinomial(logp_V.exp(), 1, generator=chance))
            ids = [token]
            why = "stop" if token in how["stop_token_ids"] else "length"
            yield token, float(logp_V[token]), why if why == "stop" or position + 1 == sampling.max_tokens else None
            if why == "stop":
                return

    def _hidden(self, ids: list[int], cache: Any) -> torch.Tensor:
        """The last hidden state [1, D] after these tokens, whose keys and values join the cache."""
        more = {cache_keyword(self._model): cache, "use_cache": True}
        return self._model.model(input_ids=torch.tensor([ids]), **more).last_hidden_state[:, -1]

    def _prefix(self, prompt: list[int]) -> Any:
        """Keys and values of all of the prompt but its last token, kept as vLLM's prefix cache does."""
        key = tuple(prompt[:-1])
        if not key:
            return DynamicCache()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = DynamicCache()
                self._hidden(list(key), self._kept[key])
            return copy.deepcopy(self._kept[key])


class Handler(BaseHTTPRequestHandler):
    of: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        answers = {
            "/health": None,
            "/version": {"version": "0.32.0"},
            "/v1/models": {"data": [{"id": "upslope", "max_model_len": POSITIONS}]},
            "/weight_info": {"weight_version": "default" if "wrong_label" in self.of.faults else self.of.label},
        }
        self._answer(answers[self.path]) if self.path in answers else self._answer({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        self.of.asked.append((self.path, body))
        path = self.path.partition("?")[0]
        if path == "/inference/v1/generate":
            self._generate(body)
        elif path == "/collective_rpc":
            if "no_method" in self.of.faults or body["method"] != "upslope_load":
                self._answer({"error": {"message": f"Worker has no attribute '{body['method']}'"}}, 500)
            else:
                self._answer({"results": [self.of.load(**body["kwargs"])]})
        elif path == "/reset_prefix_cache":
            self._answer({"success": self.of.forget()})
        elif path == "/update_weight_version":
            self.of.label = body["new_version"]
            self._answer({"success": True, "new_version": self.of.label})
        elif path in ("/pause", "/resume"):
            self.of.paused = path == "/pause"
            self._answer({"status": path})
        else:
            self._answer({"detail": "Not Found"}, 404)

    def _answer(self, content: Any, status: int = 200) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _generate(self, body: dict[str, Any]) -> None:
        faults = self.of.faults
        self.close_connection = True
        if "die" in faults:
            os._exit(9)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        label = self.of.label
        written = self.of.write(body["token_ids"], body["sampling_params"])
        for num, (token, logp, why) in enumerate(written, 1):
            while "hang" in faults:
                time.sleep(0.01)
            if "say_error" in faults:
                self._say({"error": {"message": "EngineCore encountered an issue", "code": 500}})
                return
            if num == 2 and "break_off" in faults:
                return
            label = "default" if "wrong_spans" in faults else label
            choice = {
                "index": 0,
                "token_ids": [token],
                "finish_reason": "abort" if "abort" in faults else why,
                "logprobs": {"content": [{"token_id": token, "logprob": None if "no_number" in faults else logp}]},
                "weight_versions": [{"version": label, "start": 0, "end": num}] if why else None,
            }
            self._say({"choices": [choice]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, piece: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.flush()


if __name__ == "__main__":
    given = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    if "UPSLOPE_STAND_IN_FAILS" in os.environ:
        sys.exit(Path(os.environ["UPSLOPE_STAND_IN_FAILS"]).read_text())
    served = StandIn(Path(given["--model"]), int(given["--port"]))
    served.faults |= set(filter(None, os.environ.get("UPSLOPE_STAND_IN_FAULTS", "").split()))
    served.join()
