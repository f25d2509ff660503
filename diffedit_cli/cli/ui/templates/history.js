// The states of an edit, to go back and forth through. A state is never changed.
const TOGETHER = 900; // milliseconds in which changes of one control are one step

export class History {
  constructor(now) {
    this.past = [];
    this.now = now;
    this.future = [];
    this.last = { what: null, when: 0 };
  }

  // Makes a state the present one; `what` names the control that changed it.
  change(next, what) {
    const when = performance.now();
    const same = what === this.last.what && when - this.last.when < TOGETHER;
    if (!same) this.past.push(this.now);
    this.last = { what, when };
    this.now = next;
    this.future = [];
  }

  undo() {
    if (!this.past.length) return;
    this.future.push(this.now);
    this.now = this.past.pop();
    this.last = { what: null, when: 0 };
  }

  redo() {
    if (!this.future.length) return;
    this.past.push(this.now);
    this.now = this.future.pop();
    this.last = { what: null, when: 0 };
  }
}
