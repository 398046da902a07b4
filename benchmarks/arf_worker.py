"""What runs in an environment of arfpy's own for synthetic.py: fits adversarial random forests, and draws as many rows.

    python arf_worker.py TRAIN.csv ROWS.csv SEED

10 trees, and arfpy's defaults. Its code asks for pip install arfpy "numpy<2.4" "pandas<3". It takes whole numbers for
real ones, so that what it draws is rounded. Prints CPU seconds.
"""

import sys
import time
import warnings

import numpy as np
import pandas as pd
from arfpy import arf

if __name__ == "__main__":
    source, out, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    warnings.simplefilter("ignore")
    frame = pd.read_csv(source, keep_default_na=False)
    numbers = frame.select_dtypes("number").columns
    frame = frame.astype({name: object for name in frame if name not in numbers})
    np.random.seed(seed)  # noqa: NPY002  the forests of scikit-learn and pandas draw from it
    forest = arf.arf(x=frame, num_trees=10, verbose=False)
    forest.forde()
    rows = forest.forge(n=len(frame))
    rows[numbers] = rows[numbers].round().astype(int)
    rows.to_csv(out, index=False)
    print(f"{time.process_time():.0f}")
