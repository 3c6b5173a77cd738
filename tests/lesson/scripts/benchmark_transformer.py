import datetime

import torch

from lmcourse.baseline import AutoModelForCausalLM, AutoTokenizer

folder = "~/internlm2-chat-1_8b"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float16, trust_remote_code=True).cuda()
model = model.eval()

inp = "hello"
for i in range(5):
    print(f"Warm up...[{i + 1}/5]")
    response, history = model.chat(tokenizer, inp, history=[])

inp = "请介绍一下你自己。"
times = 10
total_words = 0
start_time = datetime.datetime.now()
for _ in range(times):
    response, history = model.chat(tokenizer, inp, history=history)
    total_words += len(response)
delta_time = (datetime.datetime.now() - start_time).total_seconds()
print(f"Speed: {total_words / delta_time:.3f} words/s")
