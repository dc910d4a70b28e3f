import { resolve } from 'node:path'

/** `hedgerow` as tests start it: what the package ships, which `npm test` has built, or else this clone's sources. */
export const LAUNCHER = process.env['HEDGEROW_TEST_LAUNCHER'] ?? resolve(import.meta.dirname, '../../src/hedgerow.js')
