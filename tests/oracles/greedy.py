"""Pin a greedy continuation of the tiny oracle model, by the NumPy reimplementation (no code of Tern's).

usage: greedy.py    writes tests/fixtures/oracle/greedy_200.npy (int32 [200]); needs NumPy
"""
import os
import numpy as np
from bitnet_numpy import BitNet

oracle = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures/oracle")
model, ids, margin = BitNet(f"{oracle}/offline_f32"), [1, 5, 9, 40], 1e9
for _ in range(200):
    logits = model.forward(np.array(ids))[-1]
    first, second = np.sort(logits)[::-1][:2]
    margin = min(margin, first - second)
    ids.append(int(logits.argmax()))
np.save(f"{oracle}/greedy_200.npy", np.array(ids[4:], np.int32))
print("smallest lead of a chosen token over the next best:", margin)
