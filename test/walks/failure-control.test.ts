import { testFaults } from './failure-rows.ts'

/** Nobody notices that the control plane is away. */
await testFaults(['cluster killed', 'root killed', 'both killed, client’s agent restarted'])
