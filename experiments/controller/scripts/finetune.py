"""Train a tiny language model, randomly initialised, on Shakespeare's characters with the Trainer."""

import argparse
import tempfile

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from lrcontrol.envs.text import load_text


def main():
    """Train and say how well it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    set_seed(args.seed)
    (pieces, _), _, tokens = load_text()
    data = [{"input_ids": piece, "labels": piece} for piece in pieces[:1600]]
    config = GPT2Config(
        vocab_size=tokens, n_positions=64, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=150,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            lr_scheduler_type="constant",
            seed=args.seed,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        print("train loss", trainer.evaluate(data[:640])["eval_loss"])


if __name__ == "__main__":
    main()
