import { testFaults } from './failure-rows.ts'

/** What an instance, a node, its clock and its disk do to flows of others; and what many other services do. */
await testFaults(['instance killed', 'node process killed', 'clock jump', 'disk full', 'mass delete of other services'])
