import torch, time
from lmft.attention import DropoutAttention
import torch.nn.functional as F
torch.manual_seed(0)
q,k,v=(torch.randn(4,12,1024,64,requires_grad=True) for _ in range(3))
g=torch.randn(4,12,1024,64)
def t(f,n=3):
    best=[]
    for _ in range(n):
        s=time.perf_counter(); o=f(); m=time.perf_counter(); o.backward(g); e=time.perf_counter()
        best.append((m-s,e-m))
    return [f"{x*1e3:.0f}" for x in min(best)]
print("ours drop", t(lambda: DropoutAttention.apply(q,k,v,None,True,0.125,0.1,1)))
print("torch drop", t(lambda: F.scaled_dot_product_attention(q,k,v,None,0.1,True)))
print("torch none", t(lambda: F.scaled_dot_product_attention(q,k,v,None,0.0,True)))
import lmft.attention as A
for n in (32,128,256):
    A.QUERIES=n; print(n, t(lambda: DropoutAttention.apply(q,k,v,None,True,0.125,0.1,1)))
s=time.perf_counter(); x=torch.empty(50_000_000//4,dtype=torch.int64).random_(-(2**63),None); print("words16", time.perf_counter()-s)
s=time.perf_counter(); x=torch.empty(50_000_000).bernoulli_(0.1); print("bern", time.perf_counter()-s)
