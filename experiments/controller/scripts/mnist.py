"""Train a convolutional network with dropout on part of MNIST, an epoch at a time."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from lrcontrol.envs.data import load_images


class Net(nn.Module):
    """Two convolutions and two linear layers, each pair with its dropout."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.1), nn.Dropout(0.2)
        self.fc1, self.fc2 = nn.Linear(400, 64), nn.Linear(64, 10)

    def forward(self, x):
        """Return log probabilities (N, 10) of images (N, 1, 28, 28)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


def train(args, model, loader, optimizer):
    """Train for all epochs."""
    model.train()
    for _ in range(args.epochs):
        for data, target in loader:
            optimizer.zero_grad()
            loss = F.nll_loss(model(data), target)
            loss.backward()
            optimizer.step()


def test(model, loader):
    """Return the mean loss, dropout off."""
    model.eval()
    with torch.no_grad():
        return sum(F.nll_loss(model(x), y, reduction="sum").item() for x, y in loader) / len(loader.dataset)


def main():
    """Train and say how well it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], default="sgd")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    (images, labels), _ = load_images("mnist")
    part = TensorDataset(images[: args.images, None].float() / 255.0, labels[: args.images])
    train_loader = DataLoader(part, batch_size=args.batch_size, shuffle=True)
    model = Net()
    if args.optimizer == "sgd":
        optimizer = optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    else:
        optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    train(args, model, train_loader, optimizer)
    print("train loss", test(model, DataLoader(part, batch_size=800)))


if __name__ == "__main__":
    main()
