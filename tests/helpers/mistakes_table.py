"""Wrong commands, configs and files, each with what its sentence must name.

`@` is the folder of tests/helpers/bad_files.py. A line that begins with no verb trains, on `QUICK`.
"""

import math

from lmft.config.ranges import RANGES

QUICK = "trainer.max_steps=2 evaluation.max_blocks=2 model.vocab_size=300"
TEXT = "dataset=text_files dataset.validation=@/fine.txt"
HUGGING = "model=pretrained dataset.block_size=32 tracker=none"
OPTUNA = "-m hydra/sweeper=optuna seed=0,1"
NEEDS = {  # what a numeric knob of a choice that is not the default takes beside it
    "objective.mask_fraction": "objective=mlm model=bert_tiny",
    "hydra.launcher.n_jobs": "-m hydra/launcher=joblib seed=0,1",
    "hydra.sweeper.max_batch_size": "-m seed=0,1",
    "hydra.sweeper.n_trials": OPTUNA,
    "hydra.sweeper.n_jobs": OPTUNA,
    "hydra.sweeper.max_failures": OPTUNA,
    "hydra.sweeper.seed": OPTUNA,
}
WRONG_NUMBERS = {  # for most knobs, as the command line has them
    "-1": -1,
    "0": 0,
    "inf": math.inf,
    "nan": math.nan,
    "1e99": 1e99,
    "many": "many",
    "true": True,
    "10000000000000000000000": 10**22,
}

SPELLING = {
    "trainer.epoch=3": ("no knob 'trainer.epoch'", "Did you mean 'trainer.epochs'"),
    "lr=1e-4": ("no knob 'lr'", "Did you mean 'optimizer.lr'"),
    "model=./folder": ("takes a choice, not a path", "model=pretrained model.name=./folder"),
    "optimzer=adamw": ("no knob 'optimzer'", "Did you mean 'optimizer'"),
    "+trainer.foo=3": ("no knob 'trainer.foo'", "lmft --help"),
    "+optimizer.foo=3": ("has no knob 'optimizer.foo'", "~optimizer.foo"),
    "--config-dir=@/conf optimizer=other": ("'optimizer.learning_rate'", "Did you mean 'lr'"),
    "+dataset.source.foo=1": ("no knob 'dataset.source.foo'", "leave it out"),
    "+seed=3": ("seed is there already", "without the +"),
    "~trainer.epochs": ("trainer.epochs has no value", "set trainer.epochs="),
    "~trainer trainer.epochs=3": ("trainer.max_steps can't be set", "leave one"),
    "objective.mask_fraction=0.2": ("objective.mask_fraction can't be set", "leave one"),
    "hydra.launcher.n_jobs=3": ("hydra.launcher.n_jobs", "lmft --help"),
    "model.config={n_layr:3}": ("model.config", "'n_layr'", "Did you mean 'n_layer'"),
    "model=gpt3": ("model has no choice 'gpt3'", "Did you mean 'gpt2'"),
    "experiment=nothing": ("experiment has no choice 'nothing'", "choose distilgpt2_wikitext2"),
    "hydra/sweeper=optunas": ("hydra/sweeper", "'optunas'", "Did you mean 'optuna'"),
    "evalute": ("no verb 'evalute'", "Did you mean 'evaluate'"),
    "trainer.schedule=lineer": ("trainer.schedule", "'lineer'", "Did you mean 'linear'"),
    "hardware.device=tpu": ("hardware.device", "'tpu'", "choose auto"),
    "optimizer._target_=torch.optim.Adamw": ("optimizer._target_", "Adamw", "choose torch.optim"),
}
SYNTAX = {
    "trainer.epochs": ("'trainer.epochs'", "is not KNOB=VALUE"),
    "'trainer.epochs =3'": ("'trainer.epochs", "is not KNOB=VALUE", "without spaces"),
    "'model.config={n_layer'": ("model.config={n_layer", "can't be read", "quotes"),
    "trainer.epochs=1,2": ("trainer.epochs=1,2", "several values", "-m"),
    "--epochs 3": ("--epochs", "lmft --help"),
    "--multi seed=1,2": ("--multi", "lmft --help", "Did you mean '--multirun'"),
    "-m": ("-m needs a knob with several values", "lmft -m seed=0,1"),
    "--config-dir": ("--config-dir", "expected one argument", "lmft --help"),
    "--config-name=nowhere": ("'nowhere'", "lmft --help"),
    "--config-dir=@/conf experiment=bare": ("bare.yaml must begin with", "_global_", "add it"),
    "--config-dir=@/conf dataset=broken": ("broken.yaml, line 3", "not YAML", "fix it"),
    "--config-dir=@/conf trainer=other": ("'trainer.epoch'", "Did you mean 'trainer.epochs'"),
    "--config-dir=@/conf trainer=typed": ("trainer.epochs must be", "not 'three'"),
    "--config-dir=@/conf trainer=few": ("trainer.batch_size has no value", "set trainer.batch_"),
    "'trainer.epochs=${foo}'": ("trainer.epochs", "'foo' not found", "write the value"),
    "'trainer.epochs=${oc.env:TOKEN}'": ("trainer.epochs", "TOKEN", "let the shell fill it in"),
}
KINDS = {
    "trainer.shuffle=maybe": ("trainer.shuffle must be true or false", "'maybe'"),
    "trainer.schedule=null": ("trainer.schedule", "null", "see conf/"),
    "trainer.epochs=[1,2]": ("trainer.epochs must be a number", "[1, 2]"),
    "trainer.batch_size=2.5": ("trainer.batch_size must be a whole number", "not 2.5"),
    "hardware.micro_batch_size=many": ("hardware.micro_batch_size", "or auto", "'many'"),
    "optimizer.betas=[0.9,2]": ("optimizer.betas must be", "below 1", "not 2"),
    "optimizer.betas=[0.9]": ("optimizer", "fix optimizer"),
    "+optimizer.amsgrad=maybe": ("optimizer.amsgrad", "'maybe'", "set it to"),
    "model.config={n_head:0}": ("model.config={'n_head': 0}", "change it"),
    "model.config={n_layer:many}": ("model.config.n_layer", "'many'"),
    "model.architecture={model_type:gpt9}": ("model.architecture=", "gpt9", "change it"),
    "run_root=''": ("run_root has no value", "set run_root="),
    "model.tokenizer=''": ("model.tokenizer has no value", "leave it out"),
    "dataset.train=[a,b]": ("dataset.train", "['a', 'b']", "see conf/"),
    "dataset.separator=EOS": ("dataset.separator is 'EOS'", "did you mean eos"),
    "dataset.separator=bos": ("dataset.separator is 'bos'", "did you mean model"),
    "'tracker.experiment_name=\" \"'": ("tracker.experiment_name is ' '", "on one line"),
    "tracker.uri=foo": ("tracker.uri is 'foo'", "sqlite:////path"),
    "tracker.uri=http://127.0.0.1:9": ("http://127.0.0.1:9", "refused", "tracker=none"),
    "hydra.run.dir=/tmp": ("hydra.run.dir is '/tmp'", "set run_root"),
}
COMBINATIONS = {
    "model=pretrained": ("model.name has no value", "set it to a hub model"),
    "model=gpt2 model.tokenizer=corpus": ("model.tokenizer is 'corpus'", "from_scratch=true"),
    "model.tokenizer=null": ("model.tokenizer has no value", "set model.tokenizer=corpus"),
    "model=bert_tiny": ("bert_tiny", "depend on later", "choose objective=mlm"),
    "objective=mlm": ("gpt2_tiny", "no head", "choose objective=clm"),
    "dataset.block_size=4096": ("dataset.block_size is 4096", "set dataset.block_size=512"),
    "evaluation.stride=500": ("evaluation.stride is 500", "lower it"),
    "evaluation.pseudo=true": ("evaluation.pseudo", "leave it out"),
    "hardware.processes=2": ("hardware.processes is 2", "add hardware=ddp"),
    "hardware=ddp": ("hardware=ddp", "set hardware.processes=2"),
    "hardware=fsdp hardware.processes=2 hardware.precision=fp16": ("fp16", "choose bf16"),
    "hardware=cuda": ("hardware.device is 'cuda'", "try hardware=cpu"),
    "model.vocab_size=3": ("model.vocab_size is 3", "at least 261"),
    "dataset=text_files": ("dataset.train has no value", "set it"),
    "dataset.train=corpus/": ("'corpus/'", "add dataset=text_files"),
    "model=gpt2": ("gpt2", "hub's local cache", "name a local folder"),
}
FILES = {
    f"{TEXT} dataset.train=@/empty.txt": ("empty.txt", "no text", "choose other files"),
    f"{TEXT} dataset.train=@/one_token.txt": ("dataset.train has a single token", "so nothing"),
    "dataset=text_files dataset.train=@/one_line.txt": ("has 1 document", "dataset.validation="),
    f"{TEXT} dataset.train=@/gone.txt": ("gone.txt' is not there", "give a file"),
    f"{TEXT} dataset.train=@/nothing_to_read": ("nothing_to_read'", "no file to read", "give"),
    f"{TEXT} dataset.train=@/unreadable.txt": ("unreadable.txt cannot be read", "fetch it"),
    f"{TEXT} dataset.train=": ("dataset.train has no value", "set dataset.train="),
    f"{TEXT} dataset.train=@/fine.txt dataset.validation=@/empty.txt": ("dataset.validation",),
    f"{TEXT} dataset.train=@/nul.txt": ("nul.txt", "NUL at byte 100,", "dataset.errors=replace"),
    f"{TEXT} dataset.train=@/latin1.txt": ("latin1.txt", "byte 103 is 0xe9", "errors=replace"),
    f"{TEXT} dataset.train=@/latin1.parquet": ("latin1.parquet", "0xe9", "record 2", "=replace"),
    f"{TEXT} dataset.train=@/utf16.txt": ("utf16.txt is in UTF-16", "iconv -f utf-16 -t"),
    f"{TEXT} dataset.train=@/nul.jsonl": ("nul.jsonl", "NUL in line 2", "=replace"),
    f"{TEXT} dataset.train=@/half.jsonl": ("half.jsonl", "in line 2", "errors=replace"),
    f"{TEXT} dataset.train=@/cut.txt.gz": ("cut.txt.gz cannot be read", "fetch it again"),
    f"{TEXT} dataset.train=@/cut.parquet": ("cut.parquet", "parquet file", "fetch it again"),
    f"{TEXT} dataset.train=@/broken.jsonl": ("broken.jsonl, line 2 is not JSON", "fix"),
    f"{TEXT} dataset.train=@/texts.jsonl": ("texts.jsonl", "line 1", "write it as"),
    f"{TEXT} dataset.train=@/other.jsonl": ("'text'", "other.jsonl has body", "text_column to"),
    f"{TEXT} dataset.train=@/returns.csv": ("returns.csv, line 1 is not CSV", "fix"),
    f"{TEXT} dataset.train=@/fields.csv": ("line 3 has 3 fields, the header 2", "put quotes"),
    f"{TEXT} dataset.train=@/fine.csv dataset.text_column=body": ("'body'", "number, text"),
}
CHATS = f"{TEXT} dataset.train=@/chats.jsonl"
RECORDS = {
    CHATS: ("dataset.chat_template is 'tokenizer'", "has no chat template", "_template=chatml"),
    f"{TEXT} dataset.chat_template=chatml dataset.train=@/no_role.jsonl": (
        "no_role.jsonl, line 1, message 1 has no role", "set it to system, user"
    ),
    f"{TEXT} dataset.chat_template=chatml dataset.train=@/roles.jsonl": (
        "roles.jsonl, line 2, message 2 has the role 'bot'", "rename it to system, user"
    ),
    f"{TEXT} dataset.train=@/no_answer.jsonl": (
        "no_answer.jsonl, line 2 has an empty completion", "remove the record"
    ),
    f"{CHATS} dataset.chat_template=@/fails.jinja": (
        "fails.jinja can't render", "chats.jsonl, line", "(roles must alternate)", "set dataset.c"
    ),
    f"{CHATS} dataset.chat_template=@/broken.jinja": ("broken.jinja, line 2 is no temp", "fix it"),
    f"{CHATS} dataset.chat_template=@/hides.jinja": ("hides.jinja", "line", "dataset.learn=all"),
    f"{CHATS} dataset.chat_template=@/gone.jinja": ("gone.jinja', which can't be", "or a file"),
    f"{CHATS} dataset.kind=completion": ("dataset.kind is completion", "rename its columns"),
    f"{TEXT} dataset.train=@/fine.txt dataset.learn=last": ("dataset.learn is last", "leave"),
}  # fmt: skip
MODELS = {
    f"{HUGGING} model.name=@/lacks_a_weight": ("lacks_a_weight", "h.0.attn.c_attn", "fetch it"),
    f"{HUGGING} model.name=@/wrong_shape": ("wrong_shape", "[16, 8]", "[16, 48]", "fix one"),
    f"{HUGGING} model.name=@/cut_weights": ("cut_weights", "no weights that can be", "fetch it"),
    f"{HUGGING} model.name=@/no_weights": ("no_weights", "model.safetensors", "fetch it"),
    f"{HUGGING} model.name=@/pickled": ("pickled", "pytorch_model.bin", "convert it"),
    f"{HUGGING} model.name=@/unknown_kind": ("unknown_kind", "gpt9", "check its name"),
    f"{HUGGING} model.name=@/no_tokenizer": ("no_tokenizer", "set model.tokenizer"),
    f"{HUGGING} model.name=@/model model.tokenizer=@/more_tokens": ("more_tokens", "400", "set"),
    f"{HUGGING} model.name=@/model model.tokenizer=@/gone": ("model.tokenizer", "check the path"),
    f"{HUGGING} model.name=@/model model.config={{n_layer:4}}": ("h.2.attn", "model.config"),
    f"{HUGGING} model.name=@/model objective=mlm": ("@/model", "no head", "objective=clm"),
    f"{HUGGING} model.name=@/gone": ("model.name is '@/gone'", "no such folder", "check"),
}
PLACES = {
    "tracker.uri=sqlite:///@/newer.db": ("newer.db", "schema 0123456789ab", "upgrade mlflow"),
    "tracker.uri=sqlite:///@/other.db": ("other.db", "another program", "choose another"),
    "tracker.uri=sqlite:///@/broken.db": ("broken.db", "no SQLite store", "choose another"),
    "tracker.uri=sqlite:///@/fine.txt/mlflow.db": ("tracker.uri", "fine.txt", "not a folder"),
    "-m seed=0,1 tracker.uri=sqlite:///@/newer.db": ("newer.db", "upgrade mlflow"),
    "run_root=@/fine.txt": ("run_root", "fine.txt", "not a folder", "choose another"),
    "cache_root=@/fine.txt": ("cache_root", "fine.txt", "not a folder", "choose another"),
}
VERBS = {
    "evaluate": ("lmft evaluate", "add run=FOLDER"),
    "evaluate run=nowhere": ("run=nowhere", "lmft runs"),
    "evaluate runs/x": ("'runs/x'", "is not KNOB=VALUE"),
    f"evaluate {HUGGING} model.name=@/model evaluation.split=test": ("dataset.test", "set it"),
    f"evaluate {HUGGING} model.name=@/wrong_shape cache_root=cache": ("wrong_shape", "fix one"),
    f"generate {HUGGING} model.name=@/model tokens=0": ("tokens", "'0'", "from 1 to"),
    f"generate {HUGGING} model.name=@/model prompt=a tokens=99": ("99 new ones", "set tokens=62"),
    "compare nowhere elsewhere": ("nowhere", "lmft runs"),
    "compare colour=red": ("no knob 'colour'", "evaluation.split"),
    "clean nowhere": ("'nowhere' is no run", "lmft runs"),
    "clean yes=maybe": ("yes is 'maybe'", "true or false"),
    "sync seed=3": ("'seed=3'", "run_root and tracker knobs"),
    "verify resum": ("'resum'", "Did you mean 'resume'"),
    "plan dataset=text_files": ("dataset.train has no value", "set it"),
    "profile steps=0": ("steps", "'0'", "from 1 to 1000"),
    "-m hydra/sweeper=optuna 'seed=int(interval(9,1))'": ("seed=int(", "can't be searched"),
    f"{OPTUNA} hydra.sweeper.storage=foo": ("hydra.sweeper.storage is 'foo'", "leave it out"),
}
SIMILAR = {  # to others above: tried by `make soak` alone
    "dataset.blocksize=64": ("'dataset.blocksize'", "Did you mean 'dataset.block_size'"),
    "trainer=finetun": ("trainer has no choice 'finetun'", "Did you mean 'finetune'"),
    "model=3": ("model has no choice '3'", "choose bert_base"),
    "trainer.on_nonfinite=ignore": ("trainer.on_nonfinite", "'ignore'", "choose stop, skip"),
    "dataset.errors=ignore": ("dataset.errors", "'ignore'", "choose strict, replace"),
    "evaluation.split=tests": ("evaluation.split", "'tests'", "choose train"),
    "trainer.epochs=null": ("trainer.epochs must be a number", "not null"),
    "model.config={n_layer:inf}": ("model.config.n_layer must be a number", "not inf"),
    "run_root=null": ("run_root", "null", "see conf/"),
    "evaluation.context=4096": ("evaluation.context is 4096", "set evaluation.context=512"),
    f"{TEXT} dataset.train=@/fine.txt dataset.test=@/gone.txt": ("gone.txt'", "give a file"),
    f"{TEXT} dataset.train=@/late_nul.txt": ("late_nul.txt", "at byte 1920000,", "=replace"),
    f"{TEXT} dataset.train=@/latin1.jsonl": ("latin1.jsonl", "byte 13 is 0xe9", "=replace"),
    f"{TEXT} dataset.train=@/cut_character.txt": ("cut_char", "byte 960 is 0xf0", "=replace"),
    f"{TEXT} dataset.train=@/not.txt.gz": ("not.txt.gz cannot be read", "fetch it again"),
    f"{TEXT} dataset.train=@/broken.json": ("broken.json, line 1 is not JSON", "fix or"),
    f"{TEXT} dataset.train=@/long_number.json": ("long_number.json, line 1 is not JSON", "fix"),
    f"{TEXT} dataset.train=@/other.parquet": ("'text'", "other.parquet has body", "_column to"),
    f"{CHATS} dataset.chat_template=@/endless.jinja": ("did not render", "within 10 s", "set dat"),
    f"{HUGGING} model.name=@/no_config": ("no_config", "can't be loaded", "check its name"),
    f"{HUGGING} model.name=@/model dataset.block_size=65": ("block_size is 65", "=64 or less"),
    f"generate {HUGGING} model.name=@/model top_p=nan": ("top_p", "'nan'", "to 1"),
    "generate run=nowhere prompt=a": ("run=nowhere", "lmft runs"),
    "traner.epochs=3": ("no knob 'traner.epochs'", "Did you mean 'trainer.epochs'"),
    "seeds=1": ("no knob 'seeds'", "Did you mean 'seed'"),
    "+objective.foo=1": ("no knob 'objective.foo'", "leave it out"),
    "+tracker.foo=1": ("no knob 'tracker.foo'", "leave it out"),
    "~trainer.foo": ("no knob 'trainer.foo'", "lmft --help"),
    "~seed": ("seed has no value", "set seed="),
    "dataset=wikitex2": ("dataset", "'wikitex2'", "Did you mean 'wikitext2'"),
    "optimizer=adam": ("optimizer has no choice 'adam'", "Did you mean 'adamw'"),
    "hydra/launcher=slrm": ("hydra/launcher", "'slrm'", "Did you mean 'slurm'"),
    "optimizer=null": ("optimizer has no choice 'null'", "choose adafactor"),
    "train model=gpt2": ("no verb 'train'", "lmft KNOB=VALUE"),
    "dataset.document=page": ("dataset.document", "'page'", "choose auto"),
    "hardware.precision=fp8": ("hardware.precision", "'fp8'", "choose auto"),
    "hardware.strategy=zero": ("hardware.strategy", "'zero'", "choose none, ddp, fsdp"),
    "tracker._target_=os.system": ("tracker._target_", "os.system", "choose lmft.tracker"),
    "trainer.epochs==3": ("trainer.epochs must be a number above 0", "not '=3'"),
    f"{TEXT} 'dataset.train=a(b'": ("'a(b' is not there", "give a file"),
    "'dataset.train=[a b'": ("has the splits", "not '[a b'", "dataset=text_files"),
    "'model=~/folder'": ("takes a choice, not a path", "model=pretrained model.name=~/folder"),
    "-x": ("-x", "lmft --help"),
    "--config-dir=nowhere": ("nowhere", "not found", "lmft --help"),
    "--config-dir=@/conf experiment=lost": ("model has no choice 'gpt5'", "choose bert_base"),
    "'trainer.epochs=${trainer.epochs}'": ("trainer.epochs", "Recursive", "write the value"),
    "'run_root=${oc.decode:x}'": ("run_root", "oc.decode", "write the value itself"),
    "fresh=perhaps": ("fresh must be true or false", "'perhaps'"),
    "trainer.epochs={a:1}": ("trainer.epochs must be a number", "{'a': 1}"),
    "trainer.epochs=": ("trainer.epochs must be a number", "not ''"),
    "model.config={n_embd:-4}": ("model.config={'n_embd': -4}", "change it"),
    "model.config={activation_function:foo}": ("model.config=", "'foo'", "change it"),
    "model.config=3": ("model.config", "int", "see conf/"),
    "run_root=[]": ("run_root", "[]", "see conf/"),
    "tracker.uri=ftp://nowhere": ("tracker.uri is 'ftp://nowhere'", "can't be used"),
    "hydra.job.chdir=true": ("hydra.job.chdir", "must stay false"),
    "objective=mlm model=bert_tiny evaluation.stride=5": ("evaluation.stride is 5", "leave"),
    "hardware=ddp hardware.processes=2 hardware.micro_batch_size=auto": ("is auto", "set it"),
    "optimizer._target_=torch.optim.SGD": ("SGD has no", "betas", "~optimizer.betas"),
    f"{TEXT} dataset.train=@/folder.txt": ("folder.txt'", "no file to read", "give a file"),
    f"{TEXT} dataset.train=@/picture.png": ("picture.png'", "no file to read (.txt", "give"),
    f"{TEXT} dataset.train=@/dangling.txt": ("dangling.txt'", "give a file"),
    f"{TEXT} dataset.train=/dev/null": ("/dev/null'", "give a file"),
    f"{TEXT} dataset.train=@/utf16_no_bom.txt": ("is in UTF-16LE", "iconv -f utf-16le -t utf-8"),
    f"{TEXT} dataset.train=@/open.csv": ("line 3 is not CSV", "not closed by the end", "fix or"),
    f"{TEXT} dataset.train=@/twice.csv": ("twice.csv has 2 columns of that name", "rename or"),
    "--config-dir=@/conf experiment=here": ("'model: bert_tiny'", "write 'override /model: bert"),
    "--config-dir=@/conf experiment=latin1": ("latin1.yaml is not UTF-8", "line 2", "save it"),
    "+experiment=wikitext2_files": ("experiment is there already", "without the +"),
    f"{TEXT} dataset.train=@/nul.txt.gz": ("nul.txt.gz", "NUL at byte 100,", "errors=replace"),
    f"{TEXT} dataset.train=@/latin1.md": ("latin1.md", "byte 3 is 0xe9", "errors=replace"),
    f"{TEXT} dataset.train=@/latin1.csv": ("latin1.csv", "byte 17 is 0xe9", "errors=replace"),
    f"{TEXT} dataset.train=@/latin1.json": ("latin1.json", "byte 14 is 0xe9", "=replace"),
    f"{TEXT} dataset.train=@/surrogate.txt": ("surrogate", "byte 960 is 0xed", "=replace"),
    f"{TEXT} dataset.train=@/not.txt.xz": ("not.txt.xz cannot be read", "fetch it again"),
    f"{TEXT} dataset.train=@/not.txt.zst": ("not.txt.zst cannot be read", "fetch it again"),
    f"{TEXT} dataset.train=@/not.parquet": ("not.parquet", "parquet file", "fetch it again"),
    f"{TEXT} dataset.train=@/deep.json": ("deep.json, line 1 is not JSON", "fix or"),
    f"{TEXT} dataset.train=@/object.json": ("object.json has str in record 2", "write it"),
    f"{TEXT} dataset.train=@/other.json": ("'text'", "other.json has body", "text_column to"),
    f"{TEXT} dataset.train=@/other.csv": ("'text'", "other.csv has number, body", "_column to"),
    f"{TEXT} dataset.train=@/numbers.jsonl": ("numbers.jsonl holds int", "another column"),
    f"{HUGGING} model.name=@/lacks_all": ("lacks_all lacks", "27 more weights", "fetch it"),
    f"{HUGGING} model.name=@/text_for_weights": ("text_for_weights", "no weights", "fetch it"),
    f"{HUGGING} model.name=@/broken_config": ("broken_config", "not a valid JSON", "check its"),
    f"{HUGGING} model.name=@/broken_tokenizer": ("broken_tokenizer", "set model.tokenizer"),
    f"{HUGGING} model.name=@/more_tokens": ("model.name", "400", "set model.tokenizer"),
    f"{HUGGING} model.name=@/model model.config={{n_embd:32}}": ("[48]", "[96]", "model.config"),
    f"{HUGGING} model.name=@/fine.txt": ("fine.txt'", "no such folder", "check the path"),
    "tracker.uri=sqlite:///@/model": ("@/model", "no file", "name one"),
    "run_root=@/fine.txt/runs": ("run_root", "fine.txt", "not a folder", "choose another"),
    "run_root=/dev/full/runs": ("run_root", "/dev/full", "not a folder", "choose another"),
    f"generate {HUGGING} model.name=@/model tokens=abc": ("tokens", "'abc'", "from 1 to"),
    f"generate {HUGGING} model.name=@/model temperature=-1": ("temperature", "'-1'", "from 0"),
    "compare": ("lmft compare", "two runs", "name their folders"),
    "runs run_rot=x": ("no knob 'run_rot'", "Did you mean 'run_root'"),
    "verify resume -m": ("-m/--multirun", "lmft verify --help"),
    "verify batch trainer.epoch=3": ("'trainer.epoch'", "Did you mean 'trainer.epochs'"),
    "-m hydra/sweeper=optuna seed=3": ("nothing to search", "add knobs"),
    f"{OPTUNA} hydra.sweeper.study_name=a/b": ("hydra.sweeper.study_name", "'a/b'", "only"),
}
MACHINE = {  # nobody's mistake: exit code 1
    "run_root=/proc/runs": ("run_root", "/proc/runs", "can't be written to", "choose another"),
    "cache_root=/proc/cache": ("cache_root", "/proc/cache", "can't be written", "choose another"),
    "tracker.uri=sqlite:////proc/no/mlflow.db": ("tracker.uri", "/proc/no", "choose another"),
}


def number_rows():
    """One command for each numeric knob; test_no_wrong_number_is_taken tries all wrong numbers."""
    for index, knob in enumerate(RANGES):
        wrong = [word for word, value in WRONG_NUMBERS.items() if value not in RANGES[knob]]
        line = f"{NEEDS.get(knob, '')} {knob}={wrong[index % len(wrong)]}".strip()
        yield line, (f"{knob} must be a ", ", not ")


ROWS = (
    SPELLING | SYNTAX | KINDS | COMBINATIONS | FILES | RECORDS | MODELS | PLACES | VERBS | MACHINE
)
MORE_ROWS = SIMILAR | dict(number_rows())
SPAWNED = [  # in a process of their own; `make soak` does so with all
    "trainer.epoch=3",
    "trainer.epochs=[1,2]",
    "run_root=/proc/runs",
]
