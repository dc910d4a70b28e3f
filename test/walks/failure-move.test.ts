import { testFaults } from './failure-rows.ts'

/** Nobody notices that instances move to other nodes. */
await testFaults(['node drained', 'instance migrated'])
