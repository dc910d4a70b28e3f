import { assignmentOf } from '../orchestrator/specs.ts'
import { nodeWith } from '../orchestrator/worker-node.ts'

/* A worker as a process of its own: `output-agent.ts DIR [CMD…]` runs the command as an instance, or adopts the one of before. */

const [dir, ...cmd] = process.argv.slice(2)
const here = await nodeWith({}, dir)
if (cmd.length > 0) here.worker.assign(assignmentOf({ cmd }))
const { pid } = await here.becomes('running')
process.stdout.write(`${pid}\n`)
setInterval(() => undefined, 60_000)
