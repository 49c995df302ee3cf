"""Compile the kernel of the loss for a GPU that need not be there, and print its PTX.

python -m tests.helpers.kernel_ptx COMPUTE_CAPABILITY DTYPE VOCABULARY
"""

import sys

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from lmft.model.kernels.cross_entropy import COLUMNS, LOWEST, WARPS
from lmft.model.kernels.triton_cross_entropy import cross_entropy

ALIGNED = [["tt.divisibility", 16]]  # as launched: addresses, and rows padded to multiples of 64


def compile_kernel(capability: int, dtype: str, vocabulary: int) -> str:
    """Compile it to machine code, for logits of this dtype, with the gradient; return its PTX."""
    types = {"logits": f"*{dtype}", "targets": "*i64", "nats": "*fp32", "stride": "i32"}
    constants = {
        "SCALE": 1.0,
        "SOFTCAP": None,
        "VOCABULARY": vocabulary,
        "LOWEST": LOWEST,
        "WRITES_GRADIENT": True,
        "COLUMNS": COLUMNS,
    }
    source = ASTSource(
        cross_entropy,
        types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(index,): ALIGNED for index in range(len(types))},
    )
    target = GPUTarget("cuda", capability, warp_size=32)
    ptx: str = compile(source, target=target, options={"num_warps": WARPS}).asm["ptx"]
    return ptx


if __name__ == "__main__":
    print(compile_kernel(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
