import datetime

from lmcourse import pipeline

pipe = pipeline("~/internlm2-chat-1_8b")

inp = "hello"
for i in range(5):
    print(f"Warm up...[{i + 1}/5]")
    response = pipe([inp])

inp = "请介绍一下你自己。"
times = 10
total_words = 0
start_time = datetime.datetime.now()
for _ in range(times):
    response = pipe([inp])
    total_words += len(response[0].text)
delta_time = (datetime.datetime.now() - start_time).total_seconds()
print(f"Speed: {total_words / delta_time:.3f} words/s")
