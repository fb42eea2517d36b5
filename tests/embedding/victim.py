"""A process that has loaded noterec and a model once, and runs `embed` in a child of its own whenever it is asked to.

    python victim.py DATASET MODEL OUT SHARD_ROWS

One line of input is one run; `<child's pid>` and then `<seconds> <exit code>` are printed. So a run that is killed costs its own
time and not also the seconds that the libraries take to load. The parent runs no kernel before it forks: a child that inherits the
locks of another's threads would hang.
"""

import os
import sys
import time


def main() -> None:
    dataset, model, out, shard_rows = sys.argv[1:]
    import torch

    from noterec.config import EmbedConfig
    from noterec.embedding.engine import embed
    from noterec.errors import NoterecError

    torch.set_num_threads(1)
    config = EmbedConfig(shard_rows=int(shard_rows), device="cpu", batch_tokens=256)
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            code = 0
            try:
                embed(dataset, model=model, out=out, config=config)
            except NoterecError as error:
                sys.stderr.write(f"{error}\n")
                code = 2
            os._exit(code)
        started = time.monotonic()
        print(child, flush=True)
        status = os.waitpid(child, 0)[1]
        print(time.monotonic() - started, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
