/** An agent to be killed: runs one worker over the folder in argv and prints a line for each report. */
import type { Assignment } from '../../src/orchestrator/spec.ts'
import { nodeWith } from './worker-node.ts'

const [dir = '', work = '[]'] = process.argv.slice(2)
const node = await nodeWith({ report: (report) => console.log(JSON.stringify(report)) }, dir)
for (const assignment of JSON.parse(work) as Assignment[]) node.worker.assign(assignment)
process.stdin.resume().on('data', () => process.exit(7)) // an end without close(), as after an exception
