"""The same training with peft and transformers.Trainer, step by step."""

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


class Recorder(Trainer):
    """Trainer that reads blocks in file order and keeps the loss of each step."""

    def _get_train_sampler(self, *args, **more):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **more):
        loss = super().compute_loss(*args, **more)
        self.losses.append(loss.item())
        return loss


def trainer_losses(model, blocks, folder, batch_size, steps, lr):
    """The losses of Trainer's first steps on these blocks, with lmft's other defaults."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=batch_size,
        learning_rate=lr, weight_decay=0.01, save_strategy="no", report_to="none", use_cpu=True,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": block, "labels": block.clone()} for block in blocks]
    trainer = Recorder(model=model, args=arguments, train_dataset=rows)
    trainer.losses = []
    trainer.train()
    return trainer.losses


def load_base(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.loss_type = "ForCausalLM"
    return model
