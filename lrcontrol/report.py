"""``python -m lrcontrol.report``: one page that shows the results of an evaluation, or of several side by side."""

import sys

from lrcontrol.report_html import write_report

__all__ = ["write_report"]

if __name__ == "__main__":
    from lrcontrol.report_cli import main

    sys.exit(main())
