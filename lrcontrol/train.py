"""``python -m lrcontrol.train``: train an agent of Stable-Baselines3 on the environment.

Importing this module gives the function ``lrcontrol.train``, so that the name means one thing.
"""

import sys

if __name__ == "__main__":
    from lrcontrol.train_cli import main

    sys.exit(main())
else:
    from lrcontrol.training import train

    sys.modules[__name__] = train  # type: ignore[assignment]
