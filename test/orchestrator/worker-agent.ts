/** An agent to be killed: runs one worker over the folder in argv and prints a line for each report. */
import type { Assignment, InstanceReport } from '../../src/orchestrator/spec.ts'
import { ProcessRuntime } from '../../src/orchestrator/worker/process-runtime.ts'
import { Separation } from '../../src/orchestrator/worker/separation.ts'
import { nodeWith } from './worker-node.ts'

const [dir = '', work = '[]', uids] = process.argv.slice(2)
const separation = uids === undefined ? Separation.none('a test') : Separation.open({ setting: 'separate', uids, dir })
const runtimes = [new ProcessRuntime({ node: 'edge/n1', inherited: process.env, separation })]
/** The cluster answers until the first program runs, and never again. */
let hasCluster = true
const report = (now: InstanceReport) => {
  if (now.state === 'running') hasCluster = false
  console.log(JSON.stringify(now))
}
const node = await nodeWith({ runtimes, report }, dir)
const { leases } = node.worker
setInterval(() => hasCluster && leases.renewed(leases.now()), 100).unref()
for (const assignment of JSON.parse(work) as Assignment[]) node.worker.assign(assignment)
process.stdin.resume().on('data', () => process.exit(7)) // an end without close(), as after an exception
