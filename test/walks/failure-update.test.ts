import { testFaults } from './failure-rows.ts'

/** Nobody notices that instances are replaced. */
await testFaults(['rolling update, 1 replica', 'rolling update, 3 replicas', 'bad update, 1 replica'])
