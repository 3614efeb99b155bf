"""Train a Lightning module on part of Fashion-MNIST."""

import argparse

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lrcontrol.envs.data import load_images


class Classifier(lightning.LightningModule):
    """A multilayer perceptron of two hidden layers."""

    def __init__(self, optimizer, lr):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def training_step(self, batch, batch_idx):
        """Return the loss of a minibatch."""
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self):
        """Return the optimizer."""
        if self.hparams.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lightning.seed_everything(args.seed, verbose=False)
    (images, labels), _ = load_images("fashion_mnist")
    data = TensorDataset(images[:4000].float() / 255.0, labels[:4000])
    module = Classifier(args.optimizer, args.lr)
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=128, shuffle=True))
    with torch.no_grad():
        print("train loss", F.cross_entropy(module.model(data.tensors[0]), data.tensors[1]).item())
