import type { InstanceId, NodeId, ServiceId } from '../../../core/model/ids.ts'

/**
 * What can be said of a service, an instance, a node or a cluster, and what it means. The states of an instance and how they follow one
 * another are drawn in core/model/instance.ts; `STATE_WORDS` in event-changes.ts says which word tells of which state.
 */
export const EVENT_WORDS = {
  applied: 'a document has created or changed the service',
  scaled: 'the number of its instances was changed',
  waiting: 'it starts when the services that it calls are ready',
  placed: 'a node has been found for the instance, and has accepted it',
  moved: 'the instance has gone to another node',
  due: 'a run of a job begins, by its schedule or because somebody asked for it',
  skipped: 'a run of a job was due and does not begin',
  refused: 'a cluster or node did not take the instance',
  unplaceable: 'the instance fits nowhere at present',
  started: 'its program was started',
  ready: 'its check succeeded: it takes flows',
  unready: 'its check failed: it takes no new flows',
  restarted: 'its program had ended, or hung, and was started again',
  failed: 'its program could not be started, or ended too often',
  finished: 'a one-shot job has ended well',
  lost: 'its node, or its cluster, no longer answers',
  violated: 'it does not keep to what its document asks for: its node is too far, too full or does not fit any more',
  kept: 'it keeps to its constraints again',
  updated: 'it was given the newest document',
  stuck: 'the new version does not become ready: the roll-out has stopped',
  'rolled-back': 'it was given an earlier document again',
  cordoned: 'the node takes no new instances',
  uncordoned: 'the node takes instances again',
  draining: 'it takes nothing new, and what is open may finish',
  drained: 'nothing is left there: of the node’s instances, or of a run that was replaced',
  joined: 'a node has joined its cluster',
  connected: 'the control link is up',
  entered: 'somebody has run a command in it (`hedgerow exec`)',
  deleted: 'it is no longer wanted, and nothing of it is left',
} as const

export type EventWord = keyof typeof EVENT_WORDS

export function isEventWord(word: string): word is EventWord {
  return Object.hasOwn(EVENT_WORDS, word)
}

/** Who did it: a person at the API, the root, a cluster, or the worker on a node. */
export const ACTORS = ['user', 'reconciler', 'cluster', 'worker'] as const
export type Actor = (typeof ACTORS)[number]

/** What happened to what, by whom and why; at least one of the names is given. An instance's service is added by itself. */
export interface NewEvent {
  what: EventWord
  by: Actor
  /** For people; longer ones are cut. */
  why?: string | undefined
  service?: ServiceId | undefined
  instance?: InstanceId | undefined
  node?: NodeId | undefined
  cluster?: string | undefined
  /** Milliseconds since 1970, when it happened earlier than now. */
  at?: number | undefined
}

export interface Event {
  /** Grows with every event, also over restarts of the root; there are gaps. */
  number: number
  /** Milliseconds since 1970. */
  at: number
  what: EventWord
  service?: ServiceId
  instance?: InstanceId
  node?: NodeId
  cluster?: string
  by: Actor
  why?: string
}

/** What an event is about, for the bound of each: its service, else its node, else its cluster. */
export function subjectOf({ service, node, cluster }: Event): string {
  return service ?? node ?? cluster ?? ''
}

/** `name`: an app, a service (also by its first labels), an instance, a node or a cluster. */
export function isAbout({ service, instance, node, cluster }: Event, name: string): boolean {
  if (instance === name || service === name || node === name) return true
  if (service?.startsWith(`${name}.`)) return true
  return cluster === name || node?.slice(0, node.indexOf('/')) === name
}

/** Where whoever decides something says so. It never throws and waits for nothing. */
export interface EventSink {
  record(event: NewEvent): void
}
