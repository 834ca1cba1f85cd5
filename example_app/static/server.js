// Talking to the server. No answer in time is an error like any other.

const ANSWER_TIMEOUT = 20_000;

async function ask(path, options = {}) {
  const signal = AbortSignal.timeout(ANSWER_TIMEOUT);
  const response = await fetch(path, { ...options, signal }).catch(() => {
    throw new Error("The server does not answer.");
  });
  return { status: response.status, answer: await response.json() };
}

export async function get(path) {
  const { status, answer } = await ask(path);
  if (status !== 200) {
    throw new Error(answer.error);
  }
  return answer;
}

export function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}
