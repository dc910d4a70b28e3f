import async_hooks from 'node:async_hooks'
import { syncBuiltinESMExports } from 'node:module'

/*
 * Loaded before a test file by `npm test`. tap follows every promise and every socket to the subtest that made it, so that an error which
 * nobody catches is that subtest's: a tenth of the processor time of most files. Without, such an error ends the file, which has then failed.
 */
const nothing: async_hooks.AsyncHook = { enable: () => nothing, disable: () => nothing }
async_hooks.createHook = () => nothing
syncBuiltinESMExports()
