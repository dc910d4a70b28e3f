import { resolve } from 'node:path'

/** `hedgerow` as tests start it: what the package ships, which `npm test` has built, or else this clone's sources. */
export const LAUNCHER = process.env['HEDGEROW_TEST_LAUNCHER'] ?? resolve(import.meta.dirname, '../../src/hedgerow.js')

/** The same with Node, and its flags for few pauses, as the first words of a command line. */
export const HEDGEROW = [process.execPath, '--max-semi-space-size=2', '--single-threaded-gc', LAUNCHER] as const
