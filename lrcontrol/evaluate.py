"""``python -m lrcontrol.evaluate``: compare agents over initial learning rates and seeds.

Importing this module gives the function ``lrcontrol.evaluate``, so that the name means one thing.
"""

import sys

if __name__ == "__main__":
    from lrcontrol.evaluate_cli import main

    sys.exit(main())
else:
    from lrcontrol.evaluation import evaluate

    sys.modules[__name__] = evaluate  # type: ignore[assignment]
