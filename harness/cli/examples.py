"""Two examples of each command, which stand under its `--help`.

Behind `#` stands what an example does; "needs" tells what it takes that not everybody has. Those without are run by
tests/test_documented_commands.py, all others are parsed there.
"""

from typing import Final

EXAMPLES: Final = """
harness eval --model scenes-base --tasks scenes
harness eval --model llava-1.5-7b --tasks pope,mmhal --judge gpt-4o-2024-11-20 --judge-budget 5  # needs a GPU and a key
harness score pope 'answers/*.jsonl' --references POPE/output/coco --out runs/files  # needs answers made elsewhere
harness score mmhal answers.json --judge gpt-4o-2024-11-20 --dry-run  # needs answers; tells calls and dollars
harness rescore runs --task repope  # needs answers to POPE on a board, and RePOPE's labels
harness rescore runs/mine --task pope --dry-run  # needs answers to POPE on a board
harness import results_2026-11-20.json  # needs results of lm-eval or lmms-eval
harness import results.json --model my-model --out runs/mine  # needs results
harness parity scenes-base scenes_pope --limit 100
harness parity llava-1.5-7b pope --limit 200  # needs a GPU
harness train-then-eval silkie --judge gpt-4o-2024-11-20 --dry-run  # needs weights and data, or tells what is missing
harness train-then-eval scenes-demo --seed 1 --require-better scenes_chair
harness train-then-eval scenes-demo --seeds 3 --dry-run
harness train silkie --gpus 8  # needs eight GPUs
harness train silkie --gpus 16 --slurm partition=gpu --slurm time=2-00 --dry-run  # needs Slurm; prints the job's script
harness watch runs/scenes-demo --once
harness watch runs/silkie --tasks silkie --until-done  # needs a training run, and a GPU beside it
harness vlfeedback build --source scenes --pool scenes --judge scenes --limit 500
harness vlfeedback build --source LLaVA --pool paper --limit 80000 --plan  # needs the source's pictures
harness vlfeedback annotate runs/vlfeedback --judge gpt-4o-2024-11-20 --part 500  # needs a key
harness vlfeedback annotate public --judge gpt-4o-2024-11-20 --dry-run  # needs the network; tells calls and dollars
harness vlfeedback pairs public --rule authors --out pairs.parquet  # needs the network
harness vlfeedback pairs runs/vlfeedback --rule strongest --out pairs.jsonl  # needs a built dataset
harness vlfeedback convert RLAIF-V-Dataset pairs.json --to povid  # needs that dataset
harness vlfeedback convert pairs.json pairs.parquet --to trl --images pictures  # needs pairs and their pictures
harness vlfeedback stats public --out report  # needs the network
harness vlfeedback stats runs/vlfeedback --json  # needs a built dataset
harness vlfeedback check public  # needs the network
harness vlfeedback check pairs.parquet --images pictures  # needs pairs and their pictures
harness vlfeedback leaks runs/vlfeedback --tasks scenes
harness vlfeedback leaks public --tasks pope,chair --drop clean.parquet  # needs the network and benchmark data
harness vlfeedback sources
harness vlfeedback sources --json
harness vlfeedback push runs/vlfeedback OWNER/NAME  # needs a token of the hub
harness vlfeedback push runs/vlfeedback OWNER/NAME --public  # needs a token of the hub
harness povid inject scenes --limit 500 --out runs/povid
harness povid inject detail_23k.json --images train2014 --judge gpt-4o-2024-11-20 --out povid  # needs answers and a key
harness povid noise photo.jpg noised.png --step 500  # needs a picture
harness povid noise photo.jpg noised.png --step 500 --overflow wrap  # needs a picture
harness data check
harness data check pope amber --data pope=/data/pope  # needs a folder with POPE's questions
harness data get amber --dry-run
harness data get pope_llava  # needs the network
harness leaderboard runs --base scenes-base --ranks --headline
harness leaderboard runs --base scenes-base --html board.html
harness view runs --base scenes-base  # needs a browser; Ctrl-C ends it
harness view runs/silkie --partial --port 8080  # needs a browser
harness compare scenes-base runs/scenes-demo/checkpoint-47 --board runs/scenes-demo
harness compare llava-1.5-7b runs/x/checkpoint-400 --board runs/x --json  # needs a board with these models
harness judge bench scenes
harness judge bench my-judge --judge-url http://localhost:8000/v1 --bench vl_rewardbench  # needs a server
harness judge families gpt-4o-2024-11-20
harness judge families my-judge --judge-url http://localhost:8000/v1  # needs a server
harness judge ledger
harness judge ledger --failures
harness judge forget --unreadable --dry-run
harness judge forget --task mmhal --older-than 30 --dry-run  # needs a ledger with replies
harness judge export replies.jsonl  # needs a ledger with replies
harness judge export replies.jsonl --ledger other/ledger.sqlite  # needs that ledger
harness judge import replies.jsonl  # needs replies that were exported
harness judge import replies.jsonl --ledger other/ledger.sqlite  # needs replies that were exported
harness judge agree human.csv judge.jsonl  # needs two files of ratings
harness judge agree runs/a/ratings-gpt-4o.jsonl runs/b/ratings-gpt-4o.jsonl --json  # needs two files of ratings
harness judge labels labels.csv  # needs a board with judged answers
harness judge labels labels.csv --images 100 --task mmhal  # needs a board with judged answers
harness judge calibrate published.jsonl mine.jsonl  # needs two files of ratings
harness judge calibrate published.jsonl mine.jsonl --json > calibration.json  # needs two files of ratings
harness check --baseline runs/scenes-demo/board --baseline-model scenes-base --model runs/scenes-demo/checkpoint-47
harness check --baseline base.json --board runs/x --require-better mmhal --junit gate.xml  # needs a baseline
harness power scenes_chair --board runs/scenes-demo --difference 2
harness power pope --accuracy 85 --samples 9000
harness tasks
harness tasks --json
harness tasks show scenes_chair
harness tasks show pope --samples 2 --data pope=/data/pope  # needs a folder with POPE's questions
harness tasks new streets --type yes-no --data streets.csv --out mine  # needs a table of your own
harness tasks new signs --type open --rule judge --rubric 'Grade the text.' --data a.tsv  # needs a table
harness models
harness models --json
harness models check scenes-base
harness models check qwen2.5-vl-3b  # needs its weights
harness models convert-llava sft_model llava-rlhf --vision clip-vit-large-patch14  # needs an original checkpoint
harness models convert-llava sft_model merged --vision clip --lora rlhf_lora  # needs an original checkpoint, an adapter
harness recipes
harness recipes --json
harness recipes show scenes-demo
harness recipes show silkie
harness cache
harness cache --json
harness cache prune answers --older-than 30 --dry-run
harness cache prune weights data --older-than 90 --yes  # needs nobody else to use them
harness attention scenes-base --against runs/scenes-demo/checkpoint-47
harness attention llava-1.5-7b --against runs/x/checkpoint-400 --task pope --limit 50  # needs a GPU
harness store check runs/ledger.sqlite
harness store check runs/ledger.sqlite runs/answers.sqlite  # needs both files
harness store upgrade runs/ledger.sqlite
harness store upgrade runs/answers.sqlite  # needs that file
harness store rescue runs/ledger.sqlite saved.sqlite
harness store rescue runs/answers.sqlite saved.sqlite  # needs a damaged file
"""
"""In the order of `harness --help`."""


def examples_of(words: str, *, group: bool = False) -> list[str]:
    """Those of a command; of a `group` of commands that is none itself, the first ones of its commands."""
    lines = [line for line in EXAMPLES.splitlines() if f"{line} ".startswith(f"harness {words} ")]
    behind = [line.removeprefix(f"harness {words}").strip() for line in lines]
    own = [line for line, rest in zip(lines, behind, strict=True) if not rest or rest.startswith("-")]
    return own if group and own else lines[:2]
