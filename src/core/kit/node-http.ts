/*
 * An import of `node:http` reads all that the module offers, also its WebSocket, and so loads the whole of Node's `fetch` with it: 13 MB
 * of memory and 65 ms of every start, for what nothing here uses. In a bundle, an import of any command is an import of all of them, so the
 * build refuses one (.config/build.ts).
 */
export const { Agent, createServer, get, request, STATUS_CODES } = process.getBuiltinModule('node:http')
