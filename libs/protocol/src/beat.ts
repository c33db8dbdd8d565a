import type { Component } from './subjects.js'

export const BEAT_PERIOD_MS = 1000
/** After so long without a beat an instance counts as missing: two beats and some delay. */
export const BEAT_MISSING_MS = 2500

/** `beat.<component>.<instance>`, every second: I am alive, my load, my role. Lost ones are not sent again. */
export interface Beat {
  component: Component
  instance: string
  /** The machine that it runs on: a client prefers the instance beside it. */
  machine: string
  /** Counts up from 1 in one life of the sender. */
  seq: number
  /** Drawn anew at each start of the sender. */
  incarnation: string
  role?: 'leader' | 'follower' | 'candidate' | 'active' | 'standby'
  /** May it be asked? An API server without a store says false. */
  ready: boolean
  /** Small and flat: figures for people and for choosing among instances. */
  load?: Record<string, number>
}
