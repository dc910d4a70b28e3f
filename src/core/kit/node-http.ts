/*
 * An import of `node:http` reads all that the module offers, also its WebSocket, and so loads the whole of Node's `fetch` with it: 13 MB
 * of memory and 65 ms of every start, for what nothing here uses.
 */
export const { Agent, createServer, get, request } = process.getBuiltinModule('node:http')
