import type { ServiceEntry } from '../../src/core/model/change.ts'
import type { NodeId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { Target } from '../../src/core/table/view.ts'
import { type Caller, callerText, NODE_CALLER } from '../flow/flow.ts'
import { pinned } from '../policies/pinned.ts'
import { runningOf } from '../policies/index.ts'
import { authorise } from './authorise.ts'

/*
 * The plan that holds for every flow from this node to one target, with any caller and any measurements. The kernel
 * carries out such a plan by itself: it cannot tell callers apart, knows no other node, and counts nothing.
 *
 *   may every process here call it? ─▶ can a flow only be given to instances of this node, and equally well to each?
 *
 * A flow that user space plans (`plan.ts`) goes first to one of these instances; a test compares the two.
 */
export type StandingPlan =
  | { kind: 'any-of'; instances: readonly Instance[]; reason: string }
  | { kind: 'differs'; reason: string }

export interface StandingFacts {
  readonly self: NodeId
  /** Every instance whose processes run here, or are about to: apart from host processes, these may call. */
  callers(): readonly Caller[]
}

export function standingPlan(target: Target, entry: ServiceEntry, facts: StandingFacts): StandingPlan {
  const reason = whyCallersDiffer(target, facts)
  return reason === undefined ? commonInstances(target, entry, facts.self) : { kind: 'differs', reason }
}

function whyCallersDiffer({ service, choice }: Target, facts: StandingFacts): string | undefined {
  const callers = facts.callers()
  if (choice.policy === 'pinned' && choice.instance === 'any' && callers.length > 0) {
    return 'each caller sticks to an instance of its own, and the kernel cannot tell who calls'
  }
  for (const caller of [NODE_CALLER, ...callers]) {
    if (authorise(caller, service).allowed) continue
    const who = caller.kind === 'node' ? 'host processes' : `${caller.id} on this node`
    return `${who} may not call it, and the kernel cannot tell who calls`
  }
  return undefined
}

/** The instances among which the choice leaves nothing to decide but whose turn it is. */
function commonInstances({ choice, service }: Target, entry: ServiceEntry, self: NodeId): StandingPlan {
  const running = runningOf(entry)
  const isHere = ({ node }: Instance): boolean => node === self
  const numbered = running.find(({ ordinal }) => ordinal === choice.instance)
  if (numbered !== undefined) return only(numbered, self)
  switch (choice.policy) {
    case 'pinned': {
      if (choice.instance !== 'any')
        return differs(`instance ${choice.instance} does not run, and the name allows no other`)
      const caller = callerText(NODE_CALLER, self)
      const view = { service: service.id, choice, caller, limit: 1, memory: {}, rttMs: () => undefined, now: () => 0 }
      return only(
        pinned(running, { ...view, isHere: (node) => node === self, openFlows: () => 0, random: () => 0 })[0],
        self,
      )
    }
    case 'closest': {
      const here = running.filter(isHere)
      return here.length === 0 ? differs('no instance runs on this node') : anyOf(here)
    }
    case 'rr': {
      if (running.length <= 1) return only(running[0], self)
      const elsewhere = running.find((instance) => !isHere(instance))
      return elsewhere === undefined
        ? anyOf(running)
        : differs(`${elsewhere.id} on ${elsewhere.node} takes its turns too`)
    }
    case 'least':
      return differs('the kernel does not weigh open flows')
    default:
      return choice.policy satisfies never
  }
}

function only(instance: Instance | undefined, self: NodeId): StandingPlan {
  if (instance === undefined) return differs('no instance runs')
  return instance.node === self ? anyOf([instance]) : differs(`${instance.id} is on ${instance.node}`)
}

function anyOf(instances: readonly Instance[]): StandingPlan {
  return { kind: 'any-of', instances, reason: `${instances[0]?.id}, local` }
}

function differs(reason: string): StandingPlan {
  return { kind: 'differs', reason }
}
