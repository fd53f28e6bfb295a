#!/usr/bin/env node
// An MCP server of the old era with one tool, in nothing but Node: for what only a JavaScript server can show.
const lines = require('node:readline').createInterface({ input: process.stdin });
const schema = { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] };
const answers = {
  initialize: () => ({ protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'echo.js', version: '1' } }),
  ping: () => ({}),
  'tools/list': () => ({ tools: [{ name: 'echo', description: 'Say it again', inputSchema: schema }] }),
  'tools/call': (params) => ({ content: [{ type: 'text', text: params.arguments.text }] }),
};
lines.on('line', (line) => {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) return;
  const answer = answers[method];
  const said = answer ? { result: answer(params) } : { error: { code: -32601, message: `no method ${method}` } };
  process.stdout.write(JSON.stringify({ jsonrpc: '2.0', id, ...said }) + '\n');
});
