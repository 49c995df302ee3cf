"""The process that runs transformers.Trainer, step by step, set up as in a typical script.

Its arguments are those of shared/peers/hf_trainer.py; blocks are read in file order.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from benchmarks.turns import Job, Turns

if TYPE_CHECKING:
    from peft import PeftModel

DROPOUTS = ("_pdrop", "dropout", "dropout_prob")  # how a config's names for its rates end


class Blocks(torch.utils.data.Dataset):
    """The blocks that the lmft process saved."""

    def __init__(self, job: Job):
        self.ids = np.load(job.blocks, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.ids[number].astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}


class InOrder(Trainer):
    """Trainer that reads the training blocks in file order."""

    def _get_train_sampler(self, *args: object, **more: object) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class TakeTurns(TrainerCallback):
    """Ends a turn at the end of each step, so a turn includes Trainer's work between steps."""

    def __init__(self, turns: Turns):
        self.turns = turns

    def on_step_end(self, *args: object, **more: object) -> None:
        self.turns.done()

    def on_prediction_step(self, *args: object, **more: object) -> None:
        self.turns.done()


def load(job: Job) -> "PreTrainedModel | PeftModel":
    """Return the model, with or without dropout; with peft's adapter, if the job has one."""
    auto = AutoModelForCausalLM if job.objective == "clm" else AutoModelForMaskedLM
    config = AutoConfig.from_pretrained(job.model)
    rates = {} if job.dropout else {k: 0.0 for k in vars(config) if k.endswith(DROPOUTS)}
    if job.scratch:
        model = auto.from_config(AutoConfig.from_pretrained(job.model, **rates))
    else:
        model = auto.from_pretrained(job.model, **rates)
    if job.objective == "clm":
        model.loss_type = "ForCausalLM"  # unset for GPT-2, whose loss is then divided wrongly
    return adapt(model, job.rank) if job.rank else model


def adapt(model: PreTrainedModel, rank: int) -> "PeftModel":
    """Attach a LoRA adapter as peft's documentation does, with lmft's settings."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear"
    )
    return get_peft_model(model, settings)


def arguments(job: Job) -> TrainingArguments:
    """Return the TrainingArguments of the job."""
    return TrainingArguments(
        output_dir=f"{job.folder}/peer",
        max_steps=job.turns,
        per_device_train_batch_size=job.batch,
        per_device_eval_batch_size=job.batch,
        learning_rate=2e-5,
        weight_decay=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=0,
        bf16=job.precision == "bf16",
        torch_compile=job.compiled,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )


def main() -> None:
    """Train or evaluate, depending on the job."""
    turns = Turns()
    job = turns.job
    set_seed(0)
    collator = None
    if job.objective == "mlm":
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    trainer = InOrder(
        model=load(job),
        args=arguments(job),
        train_dataset=Blocks(job),
        eval_dataset=Blocks(job),
        data_collator=collator,
        callbacks=[TakeTurns(turns)],
    )
    turns.begin()
    if job.evaluates:
        trainer.evaluate()
    else:
        trainer.train()


if __name__ == "__main__":
    main()
