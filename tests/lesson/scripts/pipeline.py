from lmcourse import pipeline

pipe = pipeline("~/internlm2-chat-1_8b")
response = pipe(["Hi, pls intro yourself", "上海是"])
print(response)
